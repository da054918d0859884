"""Preemption: when blocks run out, the request that was admitted last gives up its blocks, and is the first to get some again.

    recompute    free them; later prefill the prompt and all drawn tokens again (cheap if short, or if a prefix cache
                 still holds them)
    swap         copy them to the host's memory and back: no work lost, but every byte crosses the bus twice

A request is preempted with all its answers: they share blocks, so half of them would free little. A request that is still
in its prompt is always recomputed, and so is one for which the host has no room. So a swapped request is always in the
middle of decoding, and continues with a decode of one token.

Kwon et al., 2023 (PagedAttention), arXiv:2309.06180, section 4.5.
"""

from minillm.cache.block_pool import BlockPool
from minillm.cache.block_table import BlockTable, swap
from minillm.scheduler.plan import Plan
from minillm.scheduler.request import SequenceGroup


def preempt(group: SequenceGroup, host: BlockPool | None, plan: Plan) -> None:
    """Preempt a running group: take its blocks. host: the pool to swap to, or None to recompute. Adds the copies to the plan."""
    plan.preempted += [sequence.id for sequence in group.live]
    tables = [sequence.table for sequence in group.active]
    held = len({block for table in tables for block in table.blocks})
    if host is not None and all(sequence.decoding for sequence in group.active) and held <= host.num_free:
        plan.swaps_out += swap(tables, host)
        group.swapped = True
    else:
        group.release_blocks()


def blocks_to_swap_in(group: SequenceGroup) -> int:
    """Count the free blocks that a swapped group needs: its own, and those to decode one token of each answer."""
    tables = [sequence.table for sequence in group.live]
    return len({block for table in tables for block in table.blocks}) + blocks_needed([(table, 1) for table in tables])


def swap_in(group: SequenceGroup, pool: BlockPool, plan: Plan) -> None:
    """Copy a swapped group's blocks back to the device."""
    plan.swaps_in += swap([sequence.table for sequence in group.live], pool)
    group.swapped = False


def blocks_needed(takes: list[tuple[BlockTable, int]]) -> int:
    """Count the free blocks that the tables of one group need together to grow by so many tokens each. Exact.

    Each table alone would copy a last block that it shares. If all its owners write to it now, the last to do so is
    alone with it and needs no copy.
    """
    blocks = sum(table.blocks_for(n) for table, n in takes)
    if len(takes) > 1:
        writers: dict[tuple[int, BlockPool], int] = {}
        for table, _ in takes:
            if table.length % table.pool.block_size:
                last = table.blocks[-1], table.pool
                writers[last] = writers.get(last, 0) + 1
        blocks -= sum(n > 1 and pool.refs[block] == n for (block, pool), n in writers.items())
    return blocks
