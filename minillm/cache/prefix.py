"""Automatic prefix caching by a chain of hashes: a block's name says its tokens and all that came before.

    hash of block i = hash(hash of block i - 1, tokens of block i, salt)

Equal tokens at another place or after another beginning have other keys and values; chained to its parent, the same
block gets another name there. Only full blocks are named: a partial one will still change. Looking up a prompt is a
walk along its own chain until a name is unknown. A hash can collide, by accident or malice, so a hit counts only if
the tokens are equal and the parent is the very block that was found before it.

vLLM's scheme, after Kwon et al., 2023, arXiv:2309.06180. (Trusting a hash alone was a hole in it: GHSA-rm76-4mrf-v9r8.)
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from minillm.cache.block_pool import BlockPool
from minillm.cache.prefix_cache import matchable


def chain(  # -> yields (hash, tokens of the block)
    tokens: Sequence[int], block_size: int, salt: Hashable = None, parent: int | None = None, hasher: Callable[[Any], int] = hash
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Hash the full blocks of tokens, lazily: each hash covers its parent's hash, its tokens and the salt.

    parent: the hash of what comes before the first token, None at the beginning of a prompt.
    """
    # BEGIN SOLUTION ex=05.1
    for start in range(0, len(tokens) - block_size + 1, block_size):
        block = tuple(tokens[start : start + block_size])
        parent = hasher((parent, block, salt))
        yield parent, block
    # END SOLUTION


@dataclass(eq=False, slots=True)
class CachedBlock:
    """A cached block: its hash (name), tokens, salt and parent. Compared by identity."""

    name: int
    tokens: tuple
    salt: object
    parent: "CachedBlock | None"
    block: int


class HashPrefixCache:
    """A PrefixCache that names blocks by hash chains. Eviction takes the block that has been idle longest.

    hasher: from a tuple to an int. Collisions cost hits and never give a wrong one.
    """

    def __init__(self, pool: BlockPool, hasher: Callable[[Any], int] = hash) -> None:
        self.pool, self.hasher = pool, hasher
        self.by_name: dict[int, CachedBlock] = {}
        self.by_block: dict[int, CachedBlock] = {}
        pool.attach(self)

    def find(self, tokens: Sequence[int], salt: Hashable = None) -> list[CachedBlock]:
        """Find the entries along the chain of tokens, up to the first that is unknown or a collision."""
        found, parent = [], None
        for name, block in chain(tokens, self.pool.block_size, salt, hasher=self.hasher):
            entry = self.by_name.get(name)
            if entry is None or entry.parent is not parent or entry.tokens != block or entry.salt != salt:
                break
            found.append(entry)
            parent = entry
        return found

    def cached_length(self, tokens: Sequence[int], salt: Hashable = None) -> int:
        return len(self.find(matchable(tokens, self.pool.block_size), salt)) * self.pool.block_size

    def match(self, tokens: Sequence[int], salt: Hashable = None) -> list[int]:
        blocks = [entry.block for entry in self.find(matchable(tokens, self.pool.block_size), salt)]
        for block in blocks:
            self.pool.share(block)
        return blocks

    def commit(self, tokens: Sequence[int], blocks: list[int], salt: Hashable = None) -> int:
        size, pool = self.pool.block_size, self.pool
        full = min(len(tokens) // size, len(blocks))
        start = full  # what is registered already needs no second look: a table's cached blocks are its first ones
        while start and blocks[start - 1] not in self.by_block:
            start -= 1
        parent = self.by_block[blocks[start - 1]] if start else None
        for block in blocks[start:full]:
            pool.check_owned(block)
        names = chain(tokens[start * size : full * size], size, salt, parent.name if parent else None, self.hasher)
        registered = 0
        for index, (name, block_tokens) in enumerate(names, start):
            entry, mine = self.by_name.get(name), blocks[index]
            if entry is None:
                pool.keep(mine)
                entry = self.by_name[name] = self.by_block[mine] = CachedBlock(name, block_tokens, salt, parent, mine)
                registered += 1
            elif entry.parent is not parent or entry.tokens != block_tokens or entry.salt != salt or pool.is_shared(mine):
                break  # a collision; or a duplicate that a fork reads too and that cannot be changed under it
            else:
                pool.share(entry.block)
                pool.free(mine)
                blocks[index] = entry.block
            parent = entry
        return registered

    def release(self, blocks: list[int]) -> None:
        self.pool.release(blocks)

    def evict(self, n: int) -> int:
        count = min(n, len(self.pool.idle))
        for _ in range(count):
            block = next(iter(self.pool.idle))
            entry = self.by_block.pop(block)
            del self.by_name[entry.name]
            self.pool.forget(block)
        return count

    def on_idle(self, block: int) -> None:
        """Ignore it: the pool's own order, longest idle first, is the order of eviction."""
