"""What every prefix cache answers, so that a scheduler takes either: hash chain (prefix) or radix tree (radix).

Keys and values of a token depend on the tokens before it alone. Two prompts that begin alike therefore have the same
blocks up to where they part: the second one shares the first one's blocks and computes the rest. A sequence's life:

    table = BlockTable(pool, cache.match(tokens, salt))     hit: table.length tokens need no prefill, at least one does
    table.append(n) … compute …                              slots to write
    cache.commit(tokens[:table.length], table.blocks, salt)  what is full may now be found by others
    table.free()                                             finished or preempted: the blocks stay findable while idle

There is no second reference count: a block is locked while it has an owner in the pool, and since an owner of a cached
block owns those before it too, idle blocks can always be evicted from the end. `pool.num_free` is exact.
Only computed tokens may be committed; drafts only once accepted. A block that is cached is never written (pool.writable).
"""

from collections.abc import Hashable, Sequence
from typing import Protocol


class PrefixCache(Protocol):
    """Remembers full blocks of one BlockPool by the tokens that lead to them."""

    def cached_length(self, tokens: list[int], salt: Hashable = None) -> int:
        """Count the tokens that `match` would find. Locks nothing, changes nothing: for sorting a queue."""

    def match(self, tokens: list[int], salt: Hashable = None) -> list[int]:  # blocks
        """Match the longest cached prefix: its blocks, each with one owner more, the caller, which must release them.

        Full blocks only, and never all tokens: the last one is computed, or there would be no logits to sample from.
        salt: anything hashable; prompts with different salts share nothing (tenants, adapters, images).
        """

    def commit(self, tokens: list[int], blocks: list[int], salt: Hashable = None) -> int:  # blocks newly registered
        """Register the full blocks of tokens whose keys and values are computed. blocks: the table's own list.

        Where the cache holds the same tokens in another block, the list is changed to that one and the duplicate freed.
        """

    def release(self, blocks: list[int]) -> None:
        """Release a match that is not used after all. (A table that has taken it over frees itself.)"""

    def evict(self, n: int) -> int:  # blocks
        """Evict up to n idle blocks, the least valuable first: they become blank. The pool calls it when blank ones run out."""

    def on_idle(self, block: int) -> None:
        """Called by the pool when the last owner of a cached block has freed it."""


def matchable(tokens: Sequence[int], block_size: int) -> list[int]:  # [token] -> [token]
    """Cut a prompt to its longest beginning that may be taken from a cache, though all of it be cached.

    Only full blocks of block_size tokens are cached, with keys and values and nothing else. The step that follows must draw a
    token, so the model must have something left to compute: logits come out of a position that goes in. A list of tokens, perhaps
    empty; the prompt stays as it is. A prompt may be empty too.
    """
    # BEGIN SOLUTION ex=05.5
    return list(tokens[: max(0, len(tokens) - 1) // block_size * block_size])
    # END SOLUTION
