"""The block pool: memory for keys and values in blocks of one size, so that no hole is ever too small.

A sequence's cache is cut into blocks that may lie anywhere; a table says where (block_table). Nothing is reserved for
tokens that may never come, and sequences that begin alike own the same blocks together. All of that is counting: a
block has as many owners as there are tables that name it, and the last owner frees it.

                    allocate                    the last owner frees it
        blank ──────────────────▶ in use ─────────────────────────────────▶ blank   nothing in it is worth keeping
          ▲                       ▲    │      … and a prefix cache keeps it
          │ evicted: oldest first │    └──────────────────────────────────▶ idle    free, and still remembered
          └──────────────── idle ─┘ shared again: a prefix hit

Blank and idle blocks are both free. Writing to a block that others own, or that a cache remembers, would change their
past: `writable` gives a fresh block instead and says what to copy into it. No arrays here: blocks are numbers.

PagedAttention: Kwon et al., 2023, arXiv:2309.06180.
"""

from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import Any

from minillm.cache.prefix_cache import PrefixCache
from minillm.errors import BlockError, OutOfBlocks, RequestError


class BlockPool:
    """The owners of `num_blocks` blocks of `block_size` tokens each. Every operation is O(1) per block.

    watermark: blocks that `can_allocate` leaves free, so that running sequences can grow. Admission must respect it.
    An operation that raises has changed nothing. Errors: BlockError, OutOfBlocks, RequestError for what can never fit.
    """

    def __init__(self, num_blocks: int, block_size: int, watermark: int = 0) -> None:
        if num_blocks < 1:
            raise BlockError(f"a pool needs at least 1 block, found {num_blocks:,}.")
        if block_size < 1 or block_size & (block_size - 1):
            raise BlockError(f"the block size must be a power of two (1, 2, 4, 8, 16, …), found {block_size:,}.")
        if not 0 <= watermark < num_blocks:
            raise BlockError(f"the watermark must be 0 to {num_blocks - 1:,} for a pool of {num_blocks:,}, found {watermark:,}.")
        self.num_blocks, self.block_size, self.watermark = num_blocks, block_size, watermark
        self.refs = [0] * num_blocks  # reference counts: owners of each block
        self.blank = list(range(num_blocks))[::-1]  # free, content worthless; a stack, block 0 on top
        self.idle: OrderedDict[int, None] = OrderedDict()  # free, content remembered by the cache; least recently freed first
        self.kept: set[int] = set()  # what the cache remembers: idle blocks and some that are in use
        self.cache: Any = None  # the PrefixCache that keeps blocks of this pool, if there is one

    @property
    def num_free(self) -> int:
        """Blocks without an owner. Cached ones count as free: they are evicted when needed."""
        return len(self.blank) + len(self.idle)

    def can_allocate(self, n: int) -> bool:
        """Whether a new request may take n blocks and leave the watermark free: the test of admission."""
        return n <= self.num_free - self.watermark

    def require(self, n: int, total: int = 0) -> None:
        """Raise unless n more blocks can be had now. total: those that the request will own with them."""
        if max(n, total) > self.num_blocks:
            raise RequestError(f"the request needs {max(n, total):,} blocks, the whole pool has {self.num_blocks:,}.")
        if n > self.num_free:
            raise OutOfBlocks(f"{n:,} blocks are needed, {self.num_free:,} of {self.num_blocks:,} are free.")

    def allocate(self) -> int:  # block
        """Allocate a block with one owner. Blank ones go first; then the cache evicts one."""
        self.require(1)
        if not self.blank:
            self.cache.evict(1)
        block = self.blank.pop()
        self.refs[block] = 1
        return block

    def share(self, block: int) -> None:
        """Add an owner; an idle block is in use again, with its content."""
        if not self.refs[self.check_block(block)] and block not in self.idle:
            raise BlockError(f"block {block} is free and blank: there is nothing in it to share.")
        self.idle.pop(block, None)
        self.refs[block] += 1

    def free(self, block: int) -> None:
        """Drop one owner of a block. The last one's becomes idle if it is kept (then tell the cache; newest last), else blank.

        Blank blocks are a stack: what was used last is used next. The cache hears of a block when it is idle, not before.
        """
        self.check_owned(block)
        # BEGIN SOLUTION ex=04.1
        self.refs[block] -= 1
        if self.refs[block] == 0:
            if block in self.kept:
                self.idle[block] = None
                self.cache.on_idle(block)
            else:
                self.blank.append(block)
        # END SOLUTION

    def release(self, blocks: Sequence[int]) -> None:
        """Drop one owner of each block of a sequence, the last block first.

        The order matters: the end of a cached prefix must be evicted before its beginning, without which it is unreachable.
        """
        for block, times in Counter(blocks).items():
            self.check_owned(block, times)
        for block in reversed(blocks):
            self.free(block)

    def is_shared(self, block: int) -> bool:
        """Whether it has more than one owner."""
        return self.refs[self.check_block(block)] > 1

    def writable(self, block: int) -> tuple[int, int | None]:  # block, copy_from
        """Copy-on-write: the block that one of its owners may write to in its place, and what to copy into that first.

        A block with other owners is left to them; one that the cache remembers stays as it is remembered.
        Copies must be carried out in the order given, before anything else is written.
        """
        self.check_owned(block)
        # BEGIN SOLUTION ex=04.4
        if self.refs[block] == 1 and block not in self.kept:
            return block, None
        fresh = self.allocate()
        self.free(block)
        return fresh, block
        # END SOLUTION

    # --- for the prefix cache ---------------------------------------------------------------------------------------------

    def attach(self, cache: PrefixCache) -> None:
        """Let a PrefixCache keep blocks: it is told when one becomes idle, and asked to evict when blank ones run out."""
        if self.cache is not None:
            raise BlockError("the pool has a prefix cache already: a block can be remembered in one way only.")
        self.cache = cache

    def keep(self, block: int) -> None:
        """Mark a block in use as cached: its content stays when the last owner frees it."""
        self.check_owned(block)
        if block in self.kept:
            raise BlockError(f"block {block} is kept already: it holds one thing only.")
        self.kept.add(block)

    def forget(self, block: int) -> None:
        """Evict a block from the cache: an idle one becomes blank."""
        if self.check_block(block) not in self.kept:
            raise BlockError(f"block {block} is not kept: there is nothing to forget.")
        self.kept.discard(block)
        if block in self.idle:
            del self.idle[block]
            self.blank.append(block)

    # --- what may be asked of a block ---------------------------------------------------------------------------------------

    def check_block(self, block: int) -> int:
        """Raise unless it is one of this pool's."""
        if not 0 <= block < self.num_blocks:
            raise BlockError(f"blocks are numbered 0 to {self.num_blocks - 1:,}, found {block:,}.")
        return block

    def check_owned(self, block: int, times: int = 1) -> int:
        """Raise unless it has this many owners at least."""
        if self.refs[self.check_block(block)] < times:
            raise BlockError(f"block {block} has {self.refs[block]} owners, {times} would use it: was it freed twice?")
        return block
