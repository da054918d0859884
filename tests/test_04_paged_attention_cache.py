"""The paged cache does what the contiguous one does, whatever is done to it; and what only pages can do."""

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from minillm.backends import numpy_
from minillm.cache.contiguous import ContiguousCache
from minillm.cache.paged import PageStore, move_to_store
from minillm.errors import BlockError, MiniLLMError, OutOfBlocks, RequestError

LAYERS, KV_HEADS, D = 2, 2, 3


def new_store(num_blocks=16, block_size=4, **options):
    return PageStore(LAYERS, KV_HEADS, D, num_blocks, block_size, **options)


def rows(rng, n):
    """Keys and values of n tokens for every layer."""
    return rng.standard_normal((2, LAYERS, n, KV_HEADS, D)).astype(np.float32)


def fill(cache, n, seed=0):
    new = rows(np.random.default_rng(seed), n)
    for layer in range(LAYERS):
        cache.append(layer, *new[:, layer])
    return new


def check_holds(cache, new):
    """Every layer reads back exactly these keys and values."""
    for layer in range(LAYERS):
        np.testing.assert_array_equal(np.stack(cache.read(layer)), new[:, layer])


def state(store, *caches):
    """All that a refused call must leave as it was."""
    tables = [(list(c.lengths), list(c.table.blocks), c.table.length) for c in caches]
    return list(store.pool.refs), sorted(store.pool.blank), tables, store.k.copy()


def check_same(before, after):
    assert before[:3] == after[:3]
    np.testing.assert_array_equal(before[3], after[3])


# --- the protocol ---------------------------------------------------------------------------------------------------------


class SideBySide(RuleBasedStateMachine):
    """Pairs of a contiguous and a paged cache that are told the same things. A refusal must change neither content."""

    @initialize(size=st.sampled_from([1, 2, 4, 8]), blocks=st.integers(2, 12), seed=st.integers(0, 2**32 - 1))
    def begin(self, size, blocks, seed):
        self.rng, self.size = np.random.default_rng(seed), size
        self.device, self.host = new_store(blocks, size), new_store(blocks, size)
        for store in (self.device, self.host):  # slots never written must never be read
            store.k[:], store.v[:] = np.nan, np.nan
        self.pairs = [self.pair()]

    def pair(self):
        return ContiguousCache(LAYERS, KV_HEADS, D, max_length=40), self.device.new_cache(max_length=40)

    def pick(self, data):
        return data.draw(st.integers(0, len(self.pairs) - 1))

    @precondition(lambda self: len(self.pairs) < 4)
    @rule()
    def arrive(self):
        self.pairs.append(self.pair())

    @precondition(lambda self: self.pairs)
    @rule(data=st.data(), n=st.integers(0, 9))
    def append(self, data, n):
        plain, paged = self.pairs[self.pick(data)]
        new = rows(self.rng, n)
        try:
            paged.append(0, *new[:, 0])
        except (OutOfBlocks, RequestError):
            return  # the plain one is not told either: both must still be equal
        plain.append(0, *new[:, 0])
        for cache in (plain, paged):
            for layer in range(1, LAYERS):
                cache.append(layer, *new[:, layer])

    @precondition(lambda self: self.pairs)
    @rule(data=st.data(), n=st.integers(1, 5))
    def interrupted_step(self, data, n):
        """The first layer is ahead when something goes wrong. A fork is as uneven; truncating to `length` evens it out."""
        plain, paged = self.pairs[self.pick(data)]
        new = rows(self.rng, n)
        try:
            paged.append(0, *new[:, 0])
            plain.append(0, *new[:, 0])
        except (OutOfBlocks, RequestError):
            pass
        self.equal()
        other = paged.fork()
        assert other.lengths == plain.fork().lengths
        other.free()
        for cache in (plain, paged):
            cache.truncate(cache.length)

    @precondition(lambda self: self.pairs)
    @rule(data=st.data())
    def truncate(self, data):
        plain, paged = self.pairs[self.pick(data)]
        length = data.draw(st.integers(0, plain.length))
        plain.truncate(length)
        paged.truncate(length)

    @precondition(lambda self: self.pairs and len(self.pairs) < 4)
    @rule(data=st.data())
    def fork(self, data):
        plain, paged = self.pairs[self.pick(data)]
        self.pairs.append((plain.fork(), paged.fork()))

    @precondition(lambda self: self.pairs)
    @rule()
    def swap(self):
        """Everything that is in one store moves to the other."""
        here = self.pairs[0][1].store
        there = self.host if here is self.device else self.device
        moving = [paged for _, paged in self.pairs if paged.store is here]
        try:
            move_to_store(moving, there)
        except OutOfBlocks:
            return
        assert all(paged.store is there and paged.table.pool is there.pool for paged in moving)

    @precondition(lambda self: self.pairs)
    @rule(data=st.data())
    def free(self, data):
        _, paged = self.pairs.pop(self.pick(data))
        paged.free()

    @invariant()
    def equal(self):
        for plain, paged in getattr(self, "pairs", ()):
            assert (plain.length, plain.lengths) == (paged.length, paged.lengths)
            for layer in range(LAYERS):
                for a, b in zip(plain.read(layer), paged.read(layer), strict=True):
                    np.testing.assert_array_equal(b, a)
                if plain.lengths[layer]:
                    q = np.ones((1, 2 * KV_HEADS, D), np.float32)
                    expected = plain.attend(numpy_, layer, q)
                    np.testing.assert_allclose(paged.attend(numpy_, layer, q), expected, rtol=1e-5, atol=1e-6)

    @invariant()
    def blocks_are_owned_by_tables_alone(self):
        for store in (self.device, self.host) if hasattr(self, "device") else ():
            owners = [b for _, paged in self.pairs if paged.store is store for b in paged.table.blocks]
            assert store.pool.refs == [owners.count(block) for block in range(store.pool.num_blocks)]
            assert store.pool.num_free == store.pool.num_blocks - len(set(owners))


TestSideBySide = SideBySide.TestCase
TestSideBySide.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_cache_begins_with_what_a_prefix_cache_has_matched():
    store = new_store()
    first = store.new_cache()
    new = fill(first, 8)
    for block in first.table.blocks:
        store.pool.share(block)
    second = store.new_cache(first.table.blocks)
    assert second.length == 8
    check_holds(second, new)


# --- copy-on-write --------------------------------------------------------------------------------------------------------


def test_who_writes_first_into_a_shared_block_copies_it_in_all_layers():
    store = new_store()
    first = store.new_cache()
    old = fill(first, 6)
    second = first.fork()
    assert second.table.blocks == first.table.blocks and store.pool.num_free == 14
    mine, theirs = fill(second, 1, seed=1), fill(first, 1, seed=2)
    assert second.table.blocks[0] == first.table.blocks[0] and second.table.blocks[1] != first.table.blocks[1]
    check_holds(second, np.concatenate([old, mine], axis=2))
    check_holds(first, np.concatenate([old, theirs], axis=2))
    assert store.pool.num_free == 13, "one block was copied, once: the second to write is the only owner by then"


def test_at_a_blocks_edge_nothing_is_copied():
    store = new_store()
    first = store.new_cache()
    old = fill(first, 8)
    copies, second = [], first.fork()
    store.copy = lambda pairs, source=None: copies.extend(pairs)
    new = fill(second, 1, seed=1)
    assert copies == []
    check_holds(second, np.concatenate([old, new], axis=2))
    check_holds(first, old)


def test_a_block_that_a_prefix_cache_remembers_is_not_written_by_its_only_owner():
    from minillm.cache.prefix import HashPrefixCache

    store = new_store()
    prefixes = HashPrefixCache(store.pool)
    cache = store.new_cache()
    old = fill(cache, 8)
    prefixes.commit(list(range(8)), cache.table.blocks)
    cache.truncate(7)
    new = fill(cache, 1, seed=1)
    check_holds(cache, np.concatenate([old[:, :, :7], new], axis=2))
    again = store.new_cache(prefixes.match([*range(8), 99]))
    check_holds(again, old)


# --- all or nothing -------------------------------------------------------------------------------------------------------


def test_a_pool_that_runs_out_within_a_step_changes_nothing():
    store = new_store(num_blocks=4)
    first, second = store.new_cache(), store.new_cache()
    fill(first, 7), fill(second, 4)
    before = state(store, first, second)
    with pytest.raises(OutOfBlocks, match="2 blocks are needed, 1 of 4 are free"):
        fill(second, 5, seed=1)
    check_same(before, state(store, first, second))
    fill(second, 4, seed=1)
    assert store.pool.num_free == 0 and second.length == 8


def test_the_copy_of_a_shared_block_counts_as_needed():
    store = new_store(num_blocks=2)
    first = store.new_cache()
    old = fill(first, 6)
    second = first.fork()
    before = state(store, first, second)
    with pytest.raises(OutOfBlocks, match="1 blocks are needed, 0 of 2 are free"):
        fill(second, 1, seed=1)
    check_same(before, state(store, first, second))
    check_holds(first, old)


def test_more_than_the_pool_will_ever_have_is_another_error():
    store = new_store(num_blocks=2)
    cache = store.new_cache()
    before = state(store, cache)
    with pytest.raises(RequestError, match="needs 3 blocks, the whole pool has 2"):
        fill(cache, 9)
    check_same(before, state(store, cache))


def test_more_than_the_context_is_refused_and_changes_nothing():
    store = new_store()
    cache = store.new_cache(max_length=5)
    fill(cache, 4)
    before = state(store, cache)
    with pytest.raises(RequestError, match="holds 5 tokens, 6 were asked for"):
        fill(cache, 2)
    check_same(before, state(store, cache))


def test_a_host_without_room_leaves_everything_where_it_was():
    store, host = new_store(), new_store(num_blocks=3)
    there, first = host.new_cache(), store.new_cache()
    fill(there, 1)
    old = fill(first, 6)
    second = first.fork()
    fill(second, 1)
    before = state(store, first, second), state(host, there)
    with pytest.raises(OutOfBlocks, match="3 blocks are needed, 2 of 3 are free"):
        move_to_store([first, second], host)
    check_same(before[0], state(store, first, second))
    check_same(before[1], state(host, there))
    check_holds(first, old)


# --- swap -----------------------------------------------------------------------------------------------------------------


def test_swapped_out_blocks_may_be_overwritten_and_sharing_survives():
    store, host = new_store(num_blocks=3), new_store(num_blocks=3)
    first = store.new_cache()
    old = fill(first, 6)
    second = first.fork()
    new = fill(second, 1, seed=1)
    move_to_store([first, second], host)
    assert store.pool.num_free == 3 and host.pool.num_free == 0 and first.store is second.store is host
    assert first.table.blocks[0] == second.table.blocks[0]
    other = store.new_cache()
    fill(other, 12, seed=9)
    other.free()
    move_to_store([first, second], store)
    check_holds(first, old)
    check_holds(second, np.concatenate([old, new], axis=2))


# --- the store ------------------------------------------------------------------------------------------------------------


def test_bytes_are_those_of_the_formula():
    store = new_store(num_blocks=10)
    cache = store.new_cache()
    fill(cache, 5)
    assert store.nbytes == 10 * 4 * 2 * LAYERS * KV_HEADS * D * 4 and cache.nbytes == store.nbytes * 2 // 10
    assert new_store(num_blocks=10, dtype=np.float16).nbytes == store.nbytes // 2


def test_a_store_beyond_memory_is_refused_with_the_number():
    with pytest.raises(MiniLLMError) as error:
        PageStore(32, 8, 128, 10**9, 16)
    assert "1,000,000,000 blocks of 16 tokens would take 4,194,304,000,000,000 bytes" in str(error.value)


@pytest.mark.parametrize("size", [0, 3, -4])
def test_a_store_of_impossible_blocks_is_refused(size):
    with pytest.raises(BlockError, match=f"power of two .* found {size}"):
        new_store(block_size=size)


def test_a_freed_cache_cannot_be_used():
    store = new_store()
    cache = store.new_cache()
    fill(cache, 3)
    cache.free()
    for use in (cache.free, cache.fork, lambda: fill(cache, 1)):
        with pytest.raises(BlockError, match="freed"):
            use()
    assert store.pool.num_free == 16


@pytest.mark.parametrize("length", [-1, 4])
def test_truncating_to_what_is_not_there_is_refused(length):
    store = new_store()
    cache = store.new_cache()
    new = fill(cache, 3)
    with pytest.raises(RequestError, match="3 tokens"):
        cache.truncate(length)
    check_holds(cache, new)
