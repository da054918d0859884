"""What tests of blocks share: the plainest cache a pool can have, a count of lines run, a look before and after."""

import sys
from pathlib import Path

from minillm.cache.block_pool import BlockPool
from minillm.cache.block_table import BlockTable


class Keeper:
    """Remembers nothing but which blocks it was told to keep, and gives up the one that is idle longest."""

    def __init__(self, pool):
        self.pool, self.told, self.early = pool, [], []
        pool.attach(self)

    def evict(self, n):
        victims = list(self.pool.idle)[:n]
        for block in victims:
            self.pool.forget(block)
        return len(victims)

    def on_idle(self, block):
        self.told.append(block)
        if block not in self.pool.idle:
            self.early.append(block)


def kept_pool(num_blocks=4, block_size=4):
    """A pool with such a cache."""
    pool = BlockPool(num_blocks, block_size)
    Keeper(pool)
    return pool


def state(pool, *tables):
    """All that a pool and its tables know, to compare before and after."""
    tables = [(list(t.blocks), t.length, t.freed, id(t.pool)) for t in tables]
    return list(pool.refs), list(pool.blank), list(pool.idle), set(pool.kept), tables


def lines_run(work, room="cache"):
    """How many lines of a room of minillm a call runs: work, counted and not timed."""
    count, old = 0, sys.gettrace()

    def trace(frame, event, argument):
        nonlocal count
        if Path(frame.f_code.co_filename).parent.name != room:
            return None
        count += event == "line"
        return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(old)
    assert count, f"not a line of minillm/{room} ran: has it moved?"
    return count


def cached(cache, tokens, salt=None):
    """Compute a prompt, commit it, let go; the blocks that held it."""
    table = BlockTable(cache.pool)
    table.append(len(tokens))
    cache.commit(tokens, table.blocks, salt)
    blocks = list(table.blocks)
    table.free()
    return blocks
