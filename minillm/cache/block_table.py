"""The block table of one sequence: position → block → slot, as a page table maps addresses.

    position   0 1 2 3 │ 4 5 6 7 │ 8 9              block size 4
    table         7    │    2    │   5
    slot        28 …   │  8 …    │ 20 21            slot = table[position // size] · size + position % size

A table grows by whole blocks, so at most size - 1 slots of a sequence are ever wasted. `fork` copies the table and not
the blocks: both own them, and the first to write into the shared last one gets a copy (copy-on-write). Under memory
pressure a table moves to another pool (`swap`), in host memory, and back.

The owner of the arrays must carry out what a call returns, in order: first all copies, then the writes to the slots.

PagedAttention: Kwon et al., 2023, arXiv:2309.06180, section 4.
"""

from collections.abc import Iterable, Sequence

from minillm.cache.block_pool import BlockPool
from minillm.errors import BlockError, RequestError


class BlockTable:
    """Blocks of one sequence in order, and how many tokens are in them. All or nothing: a call that raises changed nothing.

    blocks: full blocks to begin with, as a prefix cache's `match` gives them; the table takes over their ownership.
    """

    def __init__(self, pool: BlockPool, blocks: Iterable[int] = ()) -> None:
        self.pool = pool
        self.blocks = list(blocks)
        self.length = len(self.blocks) * pool.block_size
        self.freed = False
        self.changes = 0  # how often `blocks` has changed, so that a copy of it can be known to be stale

    def blocks_for(self, n: int) -> int:
        """Count the free blocks that `append(n)` would take, a copy of the last one included."""
        size, end = self.pool.block_size, self.length + n
        return -(-end // size) - len(self.blocks) + (n > 0 and self._must_copy())

    def append(self, n: int) -> tuple[list[int], list[tuple[int, int]]]:  # slots, (copy_from, copy_to)
        """Append n tokens: return the slots to write them to, and the blocks to copy before.

        Errors: OutOfBlocks if too few are free now, RequestError if the table would outgrow the pool.
        """
        self._alive()
        if n < 0:
            raise RequestError(f"a table grows by 0 tokens or more, found {n:,}.")
        pool, start, copies = self.pool, self.length, []
        blocks = -(-(start + n) // pool.block_size)
        pool.require(self.blocks_for(n), total=blocks)
        more = [pool.allocate() for _ in range(len(self.blocks), blocks)]
        if n and start % pool.block_size:  # after the rest is allocated: what is copied from cannot be among it
            self.blocks[-1], source = pool.writable(self.blocks[-1])
            copies += [(source, self.blocks[-1])] if source is not None else []
        self.blocks += more
        self.length += n
        self.changes += bool(more or copies)
        return self.slots(start, self.length), copies

    def slots(self, start: int, stop: int) -> list[int]:
        """Compute the slot mapping of positions start … stop - 1: where in the pool each token's keys and values lie."""
        size, blocks = self.pool.block_size, self.blocks
        if not 0 <= start <= stop <= self.length:
            raise RequestError(f"positions {start:,} to {stop:,} of a table of {self.length:,} tokens.")
        # BEGIN SOLUTION ex=04.2
        return [blocks[position // size] * size + position % size for position in range(start, stop)]
        # END SOLUTION

    def fork(self) -> "BlockTable":
        """Make a second table of the same blocks: no copy now, one block at most when either writes."""
        self._alive()
        other = BlockTable(self.pool)
        for block in self.blocks:
            self.pool.share(block)
        other.blocks, other.length = list(self.blocks), self.length
        return other

    def truncate(self, length: int) -> None:
        """Drop all tokens from `length` on, and free the blocks that held nothing else."""
        self._alive()
        if not 0 <= length <= self.length:
            raise RequestError(f"cannot truncate a table of {self.length:,} tokens to {length:,}.")
        kept = -(-length // self.pool.block_size)
        self.pool.release(self.blocks[kept:])
        del self.blocks[kept:]
        self.length = length
        self.changes += 1

    def free(self) -> None:
        """Free all blocks: the sequence is done, or preempted. The table cannot be used again."""
        self._alive()
        self.pool.release(self.blocks)
        self.blocks, self.length, self.freed = [], 0, True
        self.changes += 1

    def _must_copy(self) -> bool:
        """Whether the last block is partly filled, and shared or cached, so that it must not be written."""
        if self.length % self.pool.block_size == 0:
            return False
        return self.pool.is_shared(self.blocks[-1]) or self.blocks[-1] in self.pool.kept

    def _alive(self) -> None:
        if self.freed:
            raise BlockError("this block table was freed: its blocks may have other owners by now.")


def swap(tables: Sequence[BlockTable], pool: BlockPool) -> list[tuple[int, int]]:  # (block there, block here)
    """Move tables to another pool, out to the host's or back in; what they share with each other stays shared.

    Give all tables of one request at once (parallel samples, beams): a block that two of them own is copied once.
    The pairs are to be copied before the old pool's blocks are written again.
    """
    for table in tables:
        table._alive()
        if table.pool is pool or table.pool is not tables[0].pool or table.pool.block_size != pool.block_size:
            raise BlockError(
                f"tables move together from one pool to another of the same block size: "
                f"found blocks of {table.pool.block_size} and {pool.block_size}{', the same pool' * (table.pool is pool)}."
            )
    if len({id(table) for table in tables}) < len(tables):
        raise BlockError(f"a table is named twice among the {len(tables)} to move.")
    pool.require(len({block for table in tables for block in table.blocks}))
    places: dict[int, int] = {}
    for table in tables:
        for block in table.blocks:
            if block in places:
                pool.share(places[block])
            else:
                places[block] = pool.allocate()
    for table in tables:
        table.pool.release(table.blocks)
        table.pool, table.blocks = pool, [places[block] for block in table.blocks]
        table.changes += 1
    return list(places.items())
