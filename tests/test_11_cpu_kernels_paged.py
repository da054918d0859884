"""Paged attention of the Numba backend: against float64 loops, and bit for bit against its contiguous attention.

What is in a page beyond the sequence's tokens, and in blocks of others, is NaN: a kernel that reads it says so. Equality with
the contiguous kernel holds for every block size, because both are one kernel that sums in one order wherever a key lies.
"""

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.attention import paged as reference
from minillm.backends import get_backend
from minillm.backends.numba_.team import set_threads, threads
from minillm.cache.paged import PageStore, move_to_store
from minillm.course.checks import check_close
from minillm.errors import MiniLLMError

ops = get_backend("numba")
BLOCKS = (1, 2, 4, 8, 16, 32, 64, 256)
HEADS = ((1, 1), (3, 1), (9, 3), (9, 1), (4, 4), (6, 2))  # ratios 1, 3 and 9; multi-query; six rows of one KV head
WIDTHS = (5, 16, 64, 80)
BUDGET = 150_000  # multiply-adds that the oracle's loops may take


def draws(seed, n_q, n_k, heads, kv_heads, d, dtype=np.float32):
    rng = np.random.default_rng(seed)
    q = rng.standard_normal((n_q, heads, d), np.float32)
    return q, *((2 * rng.standard_normal((n_k, kv_heads, d), np.float32)).astype(dtype) for _ in "kv")


def paginate(k, v, size, seed=0, spare=3, stored=False):
    """Pages with k and v in blocks in random order, NaN elsewhere, and the table; stored: pages are one layer of three."""
    used = -(-len(k) // size)
    table = np.random.default_rng(seed).permutation(used + spare)[:used]
    shape = (used + spare, size, *k.shape[1:])
    pages = [np.full((3, *shape) if stored else shape, np.nan, k.dtype) for _ in "kv"]
    if stored:
        pages = [three[1] for three in pages]
    for to, values in zip(pages, (k, v), strict=True):
        for i, block in enumerate(table):
            part = values[i * size : (i + 1) * size]
            to[block, : len(part)] = part
    return *pages, table


def check(actual, expected, what):
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    check_close(actual, expected, rtol=1e-5, atol=2e-6 * scale, what=what)


@st.composite
def problems(draw):
    """Lengths at the edges of blocks, of runs of 16 and of tiles of 64; one query, a chunk, or more queries than keys."""
    size = draw(st.sampled_from(BLOCKS))
    heads, kv_heads = draw(st.sampled_from(HEADS))
    d = draw(st.sampled_from(WIDTHS))
    edges = {edge * n + by for edge in (size, 16, 64) for n in (1, 2, 3) for by in (-1, 0, 1)} | {0, 1, 200}
    n_k = draw(st.sampled_from(sorted(n for n in edges if n * heads * d <= BUDGET)))
    chunks = {1, 2, 3, 7, 16, 33, n_k, n_k + 2}
    n_q = draw(st.sampled_from(sorted(n for n in chunks if n == 1 or (n and n * max(n_k, 1) * heads * d <= BUDGET))))
    dtype = draw(st.sampled_from([np.float32, np.float32, np.float16]))
    seed = draw(st.integers(0, 99))
    arrays = draws(seed, n_q, n_k, heads, kv_heads, d, dtype)
    return arrays, size, seed, draw(st.booleans())


@settings(max_examples=120, deadline=None)
@given(problems())
def test_any_pages_give_the_oracles_output_and_the_contiguous_kernels_bits(problem):
    (q, k, v), size, seed, stored = problem
    *pages, table = paginate(k, v, size, seed, stored=stored)
    out = ops.paged_attention(q, *pages, table, len(k))
    assert out.dtype == np.float32
    check(out, oracles.attention(q, k, v), f"{q.shape} over {k.shape} in blocks of {size}")
    np.testing.assert_array_equal(out, ops.attention(q, k, v))


LONG = [(1, 2500, 9, 3, 64), (1, 1023, 9, 9, 64), (2, 1500, 6, 2, 80)]  # decode, and then prefill
LONG += [(130, 700, 3, 1, 16), (300, 300, 6, 2, 64), (40, 333, 3, 3, 5)]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("n_q, n_k, heads, kv_heads, d", LONG)
def test_long_sequences_in_every_block_size_and_with_any_threads(n_q, n_k, heads, kv_heads, d, dtype):
    """More than one split and one tile of queries; against the reference within its rounding, all else to the bit."""
    q, k, v = draws(1, n_q, n_k, heads, kv_heads, d, dtype)
    contiguous = ops.attention(q, k, v)
    before = threads()
    for size in BLOCKS:
        *pages, table = paginate(k, v, size)
        for count in (1, 2, 3):
            set_threads(count)
            try:
                out = ops.paged_attention(q, *pages, table, n_k)
            finally:
                set_threads(before)
            np.testing.assert_array_equal(out, contiguous, err_msg=f"blocks of {size}, {count} threads")
    check_close(out, reference.paged_attention(q, *pages, table, n_k), rtol=1e-4, atol=2e-5, what="against NumPy's")


def test_chunks_of_a_prompt_give_what_the_whole_gives():
    q, k, v = draws(2, 100, 100, 9, 3, 64)
    *pages, table = paginate(k, v, 16)
    whole = ops.paged_attention(q, *pages, table, 100)
    for a, b in ((0, 7), (7, 40), (40, 100)):
        np.testing.assert_array_equal(ops.paged_attention(q[a:b], *pages, table, b), whole[a:b])


@pytest.mark.parametrize("n_q", [1, 30])
def test_tables_and_pages_of_other_kinds(n_q):
    """A list, a slice of a wider array, 32-bit numbers, more blocks than needed, two tables over one block, float64, strides."""
    q, k, v = draws(3, n_q, 40, 6, 2, 64)
    *pages, table = paginate(k, v, 16)
    expected = ops.attention(q, k, v)
    rest = [b for b in range(len(pages[0])) if b not in table]
    tables = [table.tolist(), tuple(table), np.stack([table, table], 1)[:, 0], table.astype(np.int32), [*table, *rest]]
    for other in tables:
        np.testing.assert_array_equal(ops.paged_attention(q, *pages, other, 40), expected)
    np.testing.assert_array_equal(ops.paged_attention(q, *(p.astype(np.float64) for p in pages), table, 40), expected)
    wide = [np.full((*p.shape[:2], 5, 70), np.nan, np.float32) for p in pages]
    for w, p in zip(wide, pages, strict=True):
        w[:, :, 1:4:2, 3:67] = p
    np.testing.assert_array_equal(ops.paged_attention(q, *(w[:, :, 1:4:2, 3:67] for w in wide), table, 40), expected)
    twice = [table[0], table[0], table[2]]
    k2, v2 = (np.concatenate([x[:16], x[:16], x[32:]]) for x in (k, v))
    np.testing.assert_array_equal(ops.paged_attention(q, *pages, twice, 40), ops.attention(q, k2, v2))


@pytest.mark.parametrize("size", [3, 24])
def test_a_block_size_need_not_be_a_power_of_two(size):
    q, k, v = draws(4, 5, 100, 3, 3, 64)
    *pages, table = paginate(k, v, size)
    for n_q in (1, 5):
        out = ops.paged_attention(q[-n_q:], *pages, table, 100)
        np.testing.assert_array_equal(out, ops.attention(q[-n_q:], k, v))


def test_nothing_is_gathered(two_threads):
    """Beside its result a call takes scratch that does not grow with the number of keys."""
    import tracemalloc

    from minillm.backends.numba_.team import set_threads

    set_threads(1)  # each has a scratch, and how many come depends on the machine
    def peak(n_q, n_k, size):
        q, k, v = draws(0, n_q, n_k, 2, 1, 64, np.float16)
        *pages, table = paginate(k, v, size)
        ops.paged_attention(q, *pages, table, n_k)
        tracemalloc.start()
        ops.paged_attention(q, *pages, table, n_k)
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return held - q.nbytes

    for size in (2, 16):
        assert peak(50, 12_000, size) < peak(50, 300, size) + 10_000
        assert peak(1, 12_000, size) < peak(1, 2048, size) + 10_000


# --- errors: those of the reference -----------------------------------------------------------------------------------------


def both(q, *pages):
    """What either implementation says."""
    said = []
    for attend in (ops.paged_attention, reference.paged_attention):
        with pytest.raises(MiniLLMError) as error, np.errstate(all="ignore"):
            attend(q, *pages)
        said.append(str(error.value))
    return said


@pytest.mark.parametrize("n_q", [1, 30])
@pytest.mark.parametrize("table", [[0, 1, 5], [0, -1, 2], [4, 1, 2, 9], np.array([2**40, 0, 1])])
def test_a_block_that_is_not_there_is_refused_and_not_read(table, n_q):
    q, k, v = draws(0, n_q, 40, 6, 2, 64)
    pages = paginate(k, v, 16, spare=2)[:2]
    assert len(pages[0]) == 5
    ours, theirs = both(q, *pages, table, 40)
    assert ours == theirs and "the table names blocks" in ours and "there are 0 to 4" in ours


@pytest.mark.parametrize("n_q", [1, 30])
def test_shapes_and_short_tables_are_refused_as_the_reference_does(n_q):
    q, k, v = draws(0, n_q, 40, 6, 2, 64)
    *pages, table = paginate(k, v, 16)
    for arguments in (
        (q, *pages, table, 49),
        (q, *pages, table[:2], 33),
        (q[:, :5], *pages, table, 40),
        (q[:, :, :32], *pages, table, 40),
        (q, pages[0], pages[1][:4], table, 40),
        (q, *(p[:, :, :0] for p in pages), table, 40),
    ):
        ours, theirs = both(*arguments)
        assert ours == theirs


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("n_q", [1, 30])
def test_what_is_not_finite_is_refused(n_q, bad):
    q, k, v = draws(0, n_q, 40, 6, 2, 64)
    *pages, table = paginate(k, v, 16)
    worse = q.copy()
    worse[0, 1, 3] = bad
    assert f"q holds {bad} at token 0, head 1" in both(worse, *pages, table, 40)[0]
    for i in (0, 1):
        spoiled = [p.copy() for p in pages]
        spoiled[i][table[1], 3, 1, 3] = np.nan
        assert "keys or values hold NaN" in both(q, *spoiled, table, 40)[0]


# --- the cache above it -----------------------------------------------------------------------------------------------------


def test_a_step_asks_the_table_once_for_all_layers(monkeypatch):
    """Blocks become an array when they change, slots once a step; whatever happens between steps is seen."""
    store = PageStore(30, 2, 16, num_blocks=12, block_size=4)
    host = PageStore(30, 2, 16, num_blocks=12, block_size=4)
    caches, q = [store.new_cache()], np.ones((1, 4, 16), np.float32)
    made, plain = [], np.array

    def counted(*arguments, **options):
        made.append(arguments)
        return plain(*arguments, **options)

    monkeypatch.setattr("minillm.cache.paged.np.array", counted)

    def step(cache, n):
        new = np.random.default_rng(cache.length).standard_normal((2, n, 2, 16), np.float32)
        del made[:]
        for layer in range(30):
            cache.append(layer, *new)
            assert np.array_equal(cache.attend(ops, layer, q), ops.attention(q, *cache.read(layer)))
        return sum(a[1:] == (np.int64,) for a in made) - 30  # one a layer is made by `read`

    assert [step(caches[0], n) for n in (3, 1, 1, 1, 5)] == [2, 1, 2, 1, 2]  # blocks are taken for tokens 1, 5 and 9
    caches.append(caches[0].fork())
    assert [step(cache, 1) for cache in caches] == [2, 2]  # the first to write copies a block; the other has no array yet
    move_to_store(caches, host)
    assert [step(cache, 1) for cache in caches] == [2, 2]
    caches[0].truncate(3)
    assert step(caches[0], 1) == 2
