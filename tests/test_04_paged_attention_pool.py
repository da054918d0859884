"""Exercises of lesson 04 about bookkeeping: reference counts, slot mapping, copy-on-write."""

import numpy as np
import pytest
from block_help import kept_pool, lines_run, state
from hypothesis import given
from hypothesis import strategies as st

from minillm.cache.block_pool import BlockPool
from minillm.cache.block_table import BlockTable, swap
from minillm.course.checks import answers, check_close, exercise
from minillm.errors import BlockError, OutOfBlocks, RequestError

sizes = st.sampled_from([1, 2, 4, 8])

# --- 04.1: free -----------------------------------------------------------------------------------------------------------


@exercise(
    "04.1",
    points=2,
    hint=(
        "Three sequences name the block, and one of them ends: who still reads it?",
        "refs[block] counts the tables that name the block. Only the owner who brings it to 0 frees it.",
        "At 0 a block in self.kept becomes idle: self.idle[block] = None, then on_idle. Any other: self.blank.append(block).",
    ),
)
@given(owners=st.integers(1, 5))
def test_a_block_is_free_when_its_last_owner_lets_go(owners):
    pool = BlockPool(3, 4)
    block = pool.allocate()
    for _ in range(owners - 1):
        pool.share(block)
    for left in range(owners - 1, -1, -1):
        pool.free(block)
        what = f"owners of block {block}: {owners} at first, {owners - left} let go"
        assert pool.refs[block] == left, f"{what}: the reference count must be {left}, found {pool.refs[block]}"
        free = pool.num_free
        assert free == (2 if left else 3), f"{what}: {2 if left else 3} of 3 blocks must be free, found {free}"
    top = pool.allocate()
    assert top == block, f"blank blocks are a stack: block {block} was freed last, so it is handed out next, found {top}"
    again = [top, pool.allocate(), pool.allocate()]
    assert sorted(again) == [0, 1, 2], f"all 3 blocks were free: three allocations must give each once, found {again}"


@exercise("04.1", points=1, hint="What one owner frees, the other still reads: it may not be handed out again.")
@given(moves=st.lists(st.tuples(st.sampled_from("asf"), st.integers(0, 9)), max_size=40))
def test_no_block_is_handed_out_while_it_has_an_owner(moves):
    pool, owners = BlockPool(4, 4), []  # one entry for each owner
    for move, number in moves:
        if move == "a" and pool.num_free:
            block = pool.allocate()
            assert block not in owners, f"block {block} was handed out while it has {owners.count(block)} owners"
            owners.append(block)
        elif owners and move != "a":
            block = owners[number % len(owners)]
            (owners.append if move == "s" else owners.remove)(block)
            (pool.share if move == "s" else pool.free)(block)
        expected = [owners.count(block) for block in range(4)]
        assert pool.refs == expected, f"reference counts must be {expected}, found {pool.refs}"
        assert pool.num_free == expected.count(0), f"{expected.count(0)} blocks have no owner, {pool.num_free} count as free"


@exercise(
    "04.1",
    points=1,
    hint=(
        "A block in self.kept goes to self.idle, an ordered dictionary used as a queue: newest last.",
        "Then say so: self.cache.on_idle(block).",
    ),
)
def test_what_the_cache_keeps_is_idle_and_can_come_back():
    pool = kept_pool()
    blocks = [pool.allocate() for _ in range(3)]
    for block in (0, 1):
        pool.keep(blocks[block])
    pool.share(blocks[1])
    pool.free(blocks[1])
    assert not pool.cache.told, f"block 1 has an owner left: the cache must not hear on_idle yet, it heard of {pool.cache.told}"
    for block in (1, 2, 0):
        with answers(f"free({block})", "A block in self.kept goes to self.idle, an ordered dictionary, and stays kept."):
            pool.free(blocks[block])
    idle, blank = list(pool.idle), pool.blank
    assert idle == [1, 0], f"blocks 1, 2, 0 were freed in this order, 0 and 1 are kept: idle must be [1, 0], found {idle}"
    assert sorted(blank) == [2, 3], f"what is kept is not blank: blank must be 2 and 3, found {sorted(blank)}"
    assert pool.cache.told == [1, 0], f"the cache must hear on_idle of 1, then of 0; it heard of {pool.cache.told}"
    assert not pool.cache.early, "the cache is told when the block is idle: put it into self.idle first, then call on_idle"
    pool.share(1)
    taken = [pool.allocate() for _ in range(3)]
    assert sorted(taken) == [0, 2, 3], f"block 1 was shared again: allocations must give 0, 2 and 3, found {sorted(taken)}"
    assert taken[-1] == 0, f"blank blocks go first, what is remembered last: the last must be block 0, found {taken}"


# --- 04.2: slot mapping ---------------------------------------------------------------------------------------------------


def table_of(blocks, size, length):
    """A table whose blocks are just these."""
    pool = BlockPool(max(blocks, default=0) + 1, size)
    table = BlockTable(pool)
    table.blocks, table.length = list(blocks), length
    return table


def check_slots(found, right, blocks, size, start, stop):
    def ways():
        where = range(start, stop)
        first = blocks[start // size] * size + start % size
        late = [blocks[max(0, p - 1) // size] * size + p % size for p in where]
        return {
            "all tokens follow the first, whatever block they belong to": range(first, first + stop - start),
            "positions are counted from 0, not from start": [blocks[p // size] * size + p % size for p in range(stop - start)],
            "the first token of a block is looked up in the block before it (off by one at the edge)": late,
            "the block's number is not multiplied by the block size": [blocks[p // size] + p % size for p in where],
            "positions are taken for slots: the table says where each block lies": where,
        }

    what = f"slots of positions {start} … {stop - 1} in blocks {blocks} of {size}"
    as_array = np.array(found, np.int64)
    check_close(as_array, np.array(right, np.int64), rtol=0, atol=0, what=what,
                mistakes=lambda: {words: np.array(way, np.int64) for words, way in ways().items()})  # fmt: skip


@exercise(
    "04.2",
    points=1,
    hint=(
        "Blocks of 4: in which entry of the table does position 5 lie, and at which place in that block?",
        "position // size is the place in the table, position % size the place in the block.",
        "Block b begins at slot b × size: blocks[position // size] * size + position % size.",
    ),
)
@given(data=st.data(), size=sizes)
def test_positions_map_to_slots_through_the_table(data, size):
    blocks = data.draw(st.lists(st.integers(0, 20), min_size=2, max_size=5, unique=True))
    length = data.draw(st.integers(1, len(blocks) * size))
    start = data.draw(st.integers(0, length - 1))
    stop = data.draw(st.integers(start + 1, length))
    memory = [slot for block in blocks for slot in range(block * size, block * size + size)]
    check_slots(table_of(blocks, size, length).slots(start, stop), memory[start:stop], blocks, size, start, stop)


@exercise("04.2", points=1, hint="Walk through it by hand: with blocks of 4, positions 3, 4 and 5.")
def test_the_edge_of_a_block():
    blocks = [7, 2, 5]
    check_slots(table_of(blocks, 4, 10).slots(3, 6), [31, 8, 9], blocks, 4, 3, 6)
    check_slots(table_of(blocks, 4, 12).slots(7, 9), [11, 20], blocks, 4, 7, 9)


@exercise("04.2", points=0)
def test_no_tokens_no_slots():
    assert table_of([3], 4, 4).slots(4, 4) == [], "from 4 to 4 there is no position"


# --- 04.4: copy-on-write --------------------------------------------------------------------------------------------------


@exercise(
    "04.4",
    points=1,
    hint=(
        "Who else would see what is written into this block, now or later?",
        "One owner, and no prefix cache remembers it: no reason to copy.",
    ),
)
def test_the_only_owner_writes_in_place():
    pool = BlockPool(4, 4)
    block = pool.allocate()
    before = state(pool)
    found = pool.writable(block)
    assert found == (block, None), f"block {block} has one owner: writable must give ({block}, None), found {found}"
    assert state(pool) == before, "nothing was shared, so nothing may be allocated or freed"


@exercise(
    "04.4",
    points=1,
    hint=(
        "Allocate a fresh block first, then give up this owner's share of the old one (free).",
        "The answer is (block to write to, block to copy from): (block, None) where no copy is needed, else (fresh, block).",
    ),
)
@given(owners=st.integers(2, 4))
def test_who_writes_to_a_shared_block_gets_a_copy(owners):
    pool = BlockPool(6, 4)
    block = pool.allocate()
    for _ in range(owners - 1):
        pool.share(block)
    fresh, source = pool.writable(block)
    assert fresh != block, f"block {block} has {owners} owners: writing to it would change the past of {owners - 1} of them"
    assert source == block, f"what was in block {block} must be copied from there: expected {block}, found {source}"
    assert pool.refs[fresh] == 1, f"the fresh block {fresh} has one owner, the count says {pool.refs[fresh]}"
    left = pool.refs[block]
    assert left == owners - 1, f"one of {owners} owners has left block {block}: the count must be {owners - 1}, found {left}"


@exercise("04.4", points=1, hint="self.kept: a later prompt may be given this block as a prefix.")
def test_what_a_cache_remembers_is_not_written_even_by_its_only_owner():
    pool = kept_pool()
    block = pool.allocate()
    pool.keep(block)
    fresh, source = pool.writable(block)
    assert fresh != block, f"block {block} is kept: a later hit of this prefix would read what is written now"
    assert source == block, f"what was in block {block} must be copied from there: expected {block}, found {source}"
    idle = list(pool.idle)
    assert idle == [block], f"block {block} has no owner now and stays remembered: idle must be [{block}], found {idle}"


@exercise("04.4", points=1, hint="Allocate before anything else changes: it raises if the pool is full.")
def test_no_room_for_a_copy_changes_nothing():
    for kept in (False, True):
        pool = kept_pool(num_blocks=1)
        block = pool.allocate()
        (pool.keep if kept else pool.share)(block)
        before = state(pool)
        try:
            found = pool.writable(block)
        except OutOfBlocks:
            found = "OutOfBlocks"
        except IndexError as error:
            found = f"{type(error).__name__} ({error}): self.allocate() says it in the pool's words"
        assert found == "OutOfBlocks", f"there is no block to copy into: expected OutOfBlocks, found {found}"
        assert state(pool) == before, "there was no block to copy into, and yet owners or lists have changed"


@exercise("04.4", points=1, hint="allocate() also finds a block that is idle: it asks the cache to evict one.")
def test_a_copy_may_take_a_block_that_is_idle():
    pool = kept_pool(num_blocks=2)
    idle, block = pool.allocate(), pool.allocate()
    pool.keep(idle)
    pool.free(idle)
    pool.share(block)
    with answers("writable, with one block idle and none blank,", "Both are free: self.allocate() gives either."):
        found = pool.writable(block)
    assert found == (idle, block), f"block {idle} is idle and can be evicted: writable must give ({idle}, {block}), found {found}"
    assert idle not in pool.kept, f"block {idle} is written to now: the cache must have forgotten it"


@exercise("04.4", points=0, hint="Fork, then let both append: each must read its own tokens.")
@given(size=sizes, length=st.integers(1, 9), more=st.integers(1, 5))
def test_after_a_fork_neither_sees_what_the_other_writes(size, length, more):
    pool = BlockPool(40, size)
    memory, table = [None] * 40 * size, BlockTable(pool)

    def write(table, token, n):
        slots, copies = table.append(n)
        for source, target in copies:
            memory[target * size : (target + 1) * size] = memory[source * size : (source + 1) * size]
        for slot in slots:
            memory[slot] = token

    write(table, "old", length)
    other = table.fork()
    write(table, "a", more)
    write(other, "b", more)
    for one, mine in ((table, "a"), (other, "b")):
        found = [memory[slot] for slot in one.slots(0, one.length)]
        assert found == ["old"] * length + [mine] * more, f"after a fork and {more} tokens each, one side reads {found}"


# --- what no exercise asks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0, 16), "at least 1 block, found 0"),
        ((8, 0), "power of two.*found 0"),
        ((8, 24), "power of two.*found 24"),
        ((8, -16), "power of two.*found -16"),
        ((8, 16, 8), "0 to 7.*found 8"),
    ],
)
def test_a_pool_that_cannot_be_is_refused(arguments, words):
    with pytest.raises(BlockError, match=words):
        BlockPool(*arguments)


def test_misuse_is_named_and_changes_nothing():
    pool, host = kept_pool(), BlockPool(2, 4)
    table, idle, gone = BlockTable(pool), pool.allocate(), BlockTable(pool)
    table.append(5)
    pool.keep(idle)
    pool.free(idle)
    gone.free()
    pool.keep(table.blocks[1])
    before = state(pool, table, gone)
    calls = [
        (BlockError, "0 owners", lambda: pool.free(idle)),
        (BlockError, "freed twice", lambda: pool.release([table.blocks[0]] * 2)),
        (BlockError, "0 to 3, found 4", lambda: pool.free(4)),
        (BlockError, "0 to 3, found -1", lambda: pool.share(-1)),
        (BlockError, "blank", lambda: pool.share(pool.blank[0])),
        (BlockError, "0 owners", lambda: pool.keep(idle)),
        (BlockError, "kept already", lambda: pool.keep(table.blocks[1])),
        (BlockError, "not kept", lambda: pool.forget(table.blocks[0])),
        (BlockError, "already", lambda: pool.attach(None)),
        (BlockError, "was freed", gone.free),
        (BlockError, "was freed", gone.fork),
        (BlockError, "was freed", lambda: gone.append(1)),
        (RequestError, "5 blocks, the whole pool has 4", lambda: table.append(12)),
        (RequestError, "0 tokens or more, found -1", lambda: table.append(-1)),
        (RequestError, "5 tokens to 6", lambda: table.truncate(6)),
        (RequestError, "5 tokens to -1", lambda: table.truncate(-1)),
        (RequestError, "table of 5 tokens", lambda: table.slots(0, 6)),
    ]  # fmt: skip
    for error, words, call in calls:
        with pytest.raises(error, match=words):
            call()
        assert state(pool, table, gone) == before, f"{words}: something changed"
    assert host.num_free == 2


def test_tables_that_cannot_move_stay_where_they_are():
    pool, host, narrow = BlockPool(8, 4), BlockPool(2, 4), BlockPool(8, 2)
    table, other, elsewhere, gone = (BlockTable(p) for p in (pool, pool, narrow, pool))
    table.append(9)
    other.append(4)
    gone.free()
    before = state(pool, table, other, gone), state(host), state(narrow)
    for error, words, tables, target in [
        (BlockError, "blocks of 4 and 4, the same pool", [table], pool),
        (BlockError, "blocks of 4 and 2", [table], narrow),
        (BlockError, "same block size", [table, elsewhere], host),
        (BlockError, "named twice among the 2", [other, other], host),
        (BlockError, "was freed", [other, gone], host),
        (RequestError, "3 blocks, the whole pool has 2", [table], host),
    ]:
        with pytest.raises(error, match=words):
            swap(tables, target)
        assert (state(pool, table, other, gone), state(host), state(narrow)) == before
    assert swap([], host) == []


def test_too_few_now_is_not_too_few_ever():
    pool = BlockPool(4, 4)
    first, second = BlockTable(pool), BlockTable(pool)
    first.append(9)
    before = state(pool, first, second)
    with pytest.raises(OutOfBlocks, match="2 blocks are needed, 1 of 4 are free"):
        second.append(5)
    with pytest.raises(RequestError, match="5 blocks, the whole pool has 4"):
        second.append(17)
    assert state(pool, first, second) == before
    first.free()
    assert len(second.append(16)[0]) == 16 and pool.num_free == 0, "exactly full is full, not too full"


def test_the_watermark_keeps_room_for_those_who_run():
    pool = BlockPool(10, 4, watermark=2)
    assert pool.can_allocate(8) and not pool.can_allocate(9)
    table = BlockTable(pool)
    table.append(40)  # who runs may use it all
    assert pool.num_free == 0 and not pool.can_allocate(0)


def test_the_end_of_a_sequence_is_freed_before_its_beginning():
    pool = kept_pool()
    table = BlockTable(pool)
    table.append(12)
    for block in table.blocks:
        pool.keep(block)
    blocks = list(table.blocks)
    table.free()
    assert list(pool.idle) == blocks[::-1]


@pytest.mark.parametrize("work", ["allocate and free", "share", "copy on write", "revive", "append one", "fork one block"])
def test_an_operation_costs_the_same_in_a_pool_of_any_size(work):
    def lines(num_blocks):
        pool = kept_pool(num_blocks, 4)
        full = [pool.allocate() for _ in range(num_blocks - 4)]
        for block in full[:-1]:
            pool.keep(block)
        for block in full[1:-1]:
            pool.free(block)
        table = BlockTable(pool)
        table.append(3)
        return lines_run({
            "allocate and free": lambda: pool.free(pool.allocate()),
            "share": lambda: pool.share(full[0]),
            "copy on write": lambda: pool.writable(full[0]),
            "revive": lambda: pool.share(full[len(full) // 2]),
            "append one": lambda: table.append(1),
            "fork one block": table.fork,
        }[work])  # fmt: skip

    small, large = lines(16), lines(4096)
    assert small == large > 0, f"{small} lines in a pool of 16, {large} in one of 4,096"


def test_a_token_costs_the_same_however_long_the_table():
    def lines(length):
        table = BlockTable(BlockPool(1 << 14, 4))
        table.append(length)
        return lines_run(lambda: table.append(1))

    assert lines(8) == lines(40_000)
