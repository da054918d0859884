"""Prefix caching by a radix tree: prompts that begin alike go the same way, and part where they differ.

                    ┌─ "…a poem."     pages 4 5           an edge carries many pages; a node's children
    "You are…"  ────┤                                     differ in their first page. A prompt that leaves
    pages 0 1 2 3   └─ "…a haiku."    page 6              an edge midway splits it there.

To match a prompt is to walk down while whole pages agree. To evict is to prune: the end of a leaf first, since nothing
is reachable without what comes before it. The policy chooses the leaf (policies), by default the least recently used.
Pages that a sequence uses are locked. SGLang counts users on every node for that (lock_ref); here the pool's reference
count is the lock: an owner of a page owns those above it too, so a leaf's last page tells whether it may be evicted.

RadixAttention: Zheng et al., 2024, arXiv:2312.07104. A page is a block of the pool; SGLang's pages are one token.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Any

from minillm.cache.block_pool import BlockPool
from minillm.cache.policies import LRU
from minillm.cache.prefix_cache import matchable
from minillm.errors import BlockError


@dataclass(eq=False, slots=True)
class Node:
    """An edge of the tree with the node at its end. Of its pages the first ones may be in use, the rest are idle."""

    key: tuple = ()  # in the parent's children: the salt and the tokens of the first page
    tokens: list = field(default_factory=list)
    pages: list = field(default_factory=list)
    start: int = 0  # pages above
    parent: Any = None  # a Node, of all but the root
    children: dict = field(default_factory=dict)
    uses: int = 1  # matches that came through here, and the commit that made it
    last_use: int = 0
    age: float = 0.0  # of the policy, at the last use
    ticket: int = 0  # of its valid place in the queue


def common_pages(a: Sequence[int], b: Sequence[int], page_size: int) -> int:  # [token], [token] -> pages
    """Count the whole pages that two lists of tokens have in common at the beginning: bisection over slices, at C's speed."""
    low, high = 0, min(len(a), len(b)) // page_size
    if a[: high * page_size] == b[: high * page_size]:
        return high
    while high - low > 1:  # the first `low` pages agree, the first `high` do not
        middle = (low + high) // 2
        if a[low * page_size : middle * page_size] == b[low * page_size : middle * page_size]:
            low = middle
        else:
            high = middle
    return low


class RadixCache:
    """A PrefixCache that keeps blocks in a radix tree. policy: says which idle leaf is the least worth (policies)."""

    def __init__(self, pool: BlockPool, policy: Any = None) -> None:
        self.pool, self.policy, self.page_size = pool, policy or LRU(), pool.block_size
        self.root = Node()
        self.home: dict[int, Node] = {}  # block -> the node whose page it is
        self.queue: list[tuple] = []  # heap of (score, ticket, node): idle leaves, and places that are no longer valid
        self.clock = 0  # counts events: what is used later has the higher number
        pool.attach(self)

    def path(self, tokens: Sequence[int], salt: Hashable = None) -> list[tuple[Node, int]]:  # -> [(node, pages of it that agree)]
        """Find the nodes on the path of tokens, from the top. All pages agree except perhaps in the last node."""
        size, node, done, found = self.page_size, self.root, 0, []
        # BEGIN SOLUTION ex=05.2
        while child := node.children.get((salt, *tokens[done : done + size])):
            same = common_pages(child.tokens, tokens[done : done + len(child.tokens)], size)
            found.append((child, same))
            if same < len(child.pages):
                break
            node, done = child, done + len(child.tokens)
        # END SOLUTION
        return found

    def split(self, node: Node, pages: int) -> Node:  # -> the new upper node
        """Cut an edge after some of its pages: a new node takes the upper part, and this one hangs below it."""
        cut = pages * self.page_size
        upper = Node(node.key, node.tokens[:cut], node.pages[:pages], node.start, node.parent, {}, node.uses)
        upper.last_use, upper.age = node.last_use, node.age
        # BEGIN SOLUTION ex=05.3
        node.key = (node.key[0], *node.tokens[cut : cut + self.page_size])
        node.tokens, node.pages, node.start = node.tokens[cut:], node.pages[pages:], node.start + pages
        upper.parent.children[upper.key] = upper
        upper.children[node.key] = node
        node.parent = upper
        # END SOLUTION
        self.home.update(dict.fromkeys(upper.pages, upper))
        return upper

    def cached_length(self, tokens: Sequence[int], salt: Hashable = None) -> int:
        return sum(pages for _, pages in self.path(matchable(tokens, self.page_size), salt)) * self.page_size

    def match(self, tokens: Sequence[int], salt: Hashable = None) -> list[int]:
        blocks, self.clock = [], self.clock + 1
        for node, pages in self.path(matchable(tokens, self.page_size), salt):
            if pages < len(node.pages):
                node = self.split(node, pages)
            node.uses += 1
            self._touch(node)
            blocks += node.pages
        for block in blocks:
            self.pool.share(block)
        return blocks

    def commit(self, tokens: Sequence[int], blocks: list[int], salt: Hashable = None) -> int:
        pool, size = self.pool, self.page_size
        full = min(len(tokens) // size, len(blocks))
        tokens = list(tokens[: full * size])
        found, done, duplicates = self.path(tokens, salt), 0, []
        for node, pages in found:
            if blocks[done : done + pages] != node.pages[:pages]:
                duplicates += [(i, page) for i, page in enumerate(node.pages[:pages], done) if blocks[i] != page]
            done += pages
        mine = blocks[done:full]
        for block in [blocks[i] for i, _ in duplicates] + mine:
            if pool.check_owned(block) in self.home:
                raise BlockError(f"block {block} is cached under other tokens: commit what was computed into it, nothing else.")

        if any(pool.is_shared(blocks[i]) for i, _ in duplicates):
            return 0  # a fork reads a duplicate too: it cannot be changed under it, and what lies below must wait
        self.clock += 1
        for i, page in duplicates:
            pool.share(page)
            pool.free(blocks[i])
            blocks[i] = page
        parent = self.root
        for node, pages in found:
            parent = node if pages == len(node.pages) else self.split(node, pages)
            self._touch(parent)
        if mine:
            self._grow(parent, tokens[done * size :], mine, done, salt)
        return len(mine)

    def _grow(self, parent: Node, tokens: Sequence[int], pages: list[int], start: int, salt: Hashable) -> None:
        """Hang a new leaf below a node."""
        node = Node((salt, *tokens[: self.page_size]), list(tokens), pages, start, parent)
        self._touch(node)
        parent.children[node.key] = node
        for page in pages:
            self.pool.keep(page)
            self.home[page] = node

    def release(self, blocks: list[int]) -> None:
        self.pool.release(blocks)

    def on_idle(self, block: int) -> None:
        self.clock += 1
        node = self.home[block]
        self._touch(node)  # it was in use until now
        self._offer(node)

    def _touch(self, node: Node) -> None:
        """Note a use. A leaf that loses its end is no younger for it, so its age is kept from here."""
        node.last_use, node.age = self.clock, self.policy.age

    def locked(self, node: Node) -> bool:
        """Whether its last page has an owner. Then nothing above it is idle either."""
        return self.pool.refs[node.pages[-1]] > 0

    def _offer(self, node: Node) -> None:
        """Queue a leaf whose last page is idle."""
        if node is self.root or node.children or self.locked(node):
            return
        self.clock += 1
        node.ticket = self.clock
        heappush(self.queue, (self.policy.score(node), node.ticket, node))
        if len(self.queue) > 2 * len(self.home) + 64:  # mostly places of leaves that were used again
            self.queue = [item for item in self.queue if item[1] == item[2].ticket]
            heapify(self.queue)

    def evict(self, n: int) -> int:  # -> pages
        """Prune up to n idle pages from the ends of leaves, the smallest score first; what is in use stays."""
        freed = 0
        while freed < n and self.queue:
            score, ticket, node = heappop(self.queue)
            if ticket == node.ticket and not node.children and not self.locked(node):
                self.policy.evicted(score)
                self.prune(node)
                freed += 1
        return freed

    def prune(self, node: Node) -> None:
        """Cut the last page off a leaf; a leaf without pages goes, and its parent may be one now."""
        block = node.pages.pop()
        del node.tokens[-self.page_size :]
        del self.home[block]
        self.pool.forget(block)
        if not node.pages:
            del node.parent.children[node.key]
            node.ticket = 0
            node = node.parent
        self._offer(node)
