"""Preemption: when blocks run out, the request that came last gives up its own, and comes back first.

    recompute    forget them; on the way back the prompt and all that was drawn is prefilled again (cheap if short, or
                 if a prefix cache still remembers)
    swap         copy them to the host's memory and back: no work lost, but every byte crosses the bus twice

A request goes with all its answers: they share blocks, and half of them gone would free little. One that is still in its
prompt is always recomputed, and so is one for which the host has no room. What was swapped is therefore in the middle of
decoding, and comes back by decoding one token.

Kwon et al., 2023 (PagedAttention), arXiv:2309.06180, section 4.5.
"""

from minillm.cache.block_table import swap


def leave(group, host, plan):
    """Take a running group's blocks away. host: the pool to swap to, or None to recompute. Notes in the plan what to copy."""
    plan.preempted += [sequence.id for sequence in group.live]
    tables = [sequence.table for sequence in group.active]
    held = len({block for table in tables for block in table.blocks})
    if host is not None and all(sequence.decoding for sequence in group.active) and held <= host.num_free:
        plan.swaps_out += swap(tables, host)
        group.swapped = True
    else:
        group.forget()


def blocks_to_return(group):  # -> blocks
    """Free blocks that a swapped group needs to come back and decode one token of each answer."""
    tables = [sequence.table for sequence in group.live]
    return len({block for table in tables for block in table.blocks}) + growth([(table, 1) for table in tables])


def come_back(group, pool, plan):
    """Copy a swapped group's blocks to the device again."""
    plan.swaps_in += swap([sequence.table for sequence in group.live], pool)
    group.swapped = False


def growth(takes):  # [(table, tokens)] -> blocks
    """Free blocks that the tables of one group take together to grow by so many tokens each. Exact.

    Each table alone would copy a last block that it shares. If all its owners write to it now, the last to do so is
    alone with it and needs no copy.
    """
    blocks = sum(table.blocks_for(n) for table, n in takes)
    if len(takes) > 1:
        writers = {}
        for table, _ in takes:
            if table.length % table.pool.block_size:
                last = table.blocks[-1], table.pool
                writers[last] = writers.get(last, 0) + 1
        blocks -= sum(n > 1 and pool.refs[block] == n for (block, pool), n in writers.items())
    return blocks
