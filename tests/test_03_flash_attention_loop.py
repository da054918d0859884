"""Exercise 03.4: the loop of FlashAttention-2, one head of it against the oracle, and what it loads."""

import mistakes_attention as mistakes
import numpy as np
import oracles
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minillm.attention.flash import flash2_head
from minillm.attention.mask import Mask
from minillm.course.checks import check_close, draws, exercise, seeds


def flash2(q, k, v, mask, block_q, block_k):
    """One head's output and log-sum-exp, into arrays that arrive as flash_attention hands them over."""
    out, lse = np.zeros_like(q), np.full(len(q), -np.inf, np.float32)
    flash2_head(q, k, v, out, lse, mask, block_q, block_k)
    return out, lse


def slips_of_the_mask(q, k, v, seen, block_q, block_k):  # -> {words: (out, lse)}
    scores = q.astype(np.float64) @ k.T / q.shape[1] ** 0.5
    first_rows, last_tile, until_hidden = (np.zeros_like(seen) for _ in range(3))
    for a in range(0, len(q), block_q):
        rows = slice(a, a + block_q)
        keys = np.flatnonzero(seen[rows].any(axis=0))
        hidden = [b for b in range(0, len(k), block_k) if not seen[rows, b : b + block_k].any()]
        until_hidden[rows, : min(hidden, default=len(k))] = seen[rows, : min(hidden, default=len(k))]
        if len(keys):
            span = slice(keys[0], keys[-1] + 1)
            first_rows[rows, span] = seen[: len(seen[rows]), span]
            last_tile[rows, span] = True
            tail = slice(span.start + (span.stop - span.start - 1) // block_k * block_k, span.stop)
            last_tile[rows, tail] = seen[rows, tail]
    return mistakes.flash_loop(q, k, v, seen, block_q, block_k) | {
        "each tile is masked as if it held the first queries: mask.scores wants the tile's own rows": mistakes.average(
            scores, first_rows, v),
        "the last tile alone is masked: the diagonal may run through several, and a window has a lower edge": mistakes.average(
            scores, last_tile, v),
        "the loop ends at the first tile that is hidden: with a window visible ones come after it": mistakes.average(
            scores, until_hidden, v),
    }  # fmt: skip


def check_flash2(q, k, v, block_q, block_k, causal=True, window=None, offset=None):
    n_q, n_k = len(q), len(k)
    offset = n_k - n_q if offset is None else offset
    how = {"causal": causal, "window": window, "offset": offset}
    right = [x[:, 0] for x in oracles.attention_and_lse(q[:, None], k[:, None], v[:, None], **how)]
    seen = oracles.visible(n_q, n_k, **how)
    found = flash2(q, k, v, Mask(n_q, n_k, **how), block_q, block_k)
    where = f"of {n_q} queries on {n_k} keys in tiles of {block_q} × {block_k}, {causal=}, {window=}, {offset=}"
    for i, name in enumerate(("output", "log-sum-exp")):
        ways = lambda i=i: mistakes.of(slips_of_the_mask(q, k, v, seen, block_q, block_k), found, i)  # noqa: E731
        check_close(found[i], right[i], what=f"{name} {where}", mistakes=ways)


@exercise(
    "03.4",
    points=3,
    hint=(
        "What must happen to each tile of keys, in which order, and what if n_k is no multiple of block_k?",
        "tiles(start, stop, block_k) cuts mask.span(rows) and keeps the tail; q_tile is scaled already.",
        "scores = mask.scores(q_tile @ k[columns].T, rows, columns); then update(m, l, acc, scores, v[columns]).",
    ),
)
@settings(max_examples=60)
@given(
    seed=seeds, n_q=st.integers(1, 7), n_k=st.integers(1, 9), d=st.sampled_from([3, 8, 1]),
    block_q=st.integers(1, 4), block_k=st.integers(1, 4),
)  # fmt: skip
@example(seed=1, n_q=5, n_k=9, d=3, block_q=2, block_k=4)  # large enough that no two mistakes agree
def test_tiles_of_any_size_give_the_attention_of_the_whole(seed, n_q, n_k, d, block_q, block_k):
    q, k, v = draws(seed, (n_q, d), (n_k, d), (n_k, d))
    k = k * np.float32(3) * np.linspace(0.2, 2, n_k, dtype=np.float32)[:, None]  # later tiles do raise the maximum
    check_flash2(q, k, v, block_q, block_k, causal=False)


@exercise("03.4", points=2, hint="Mask each tile by its own rows and columns: mask.scores(scores, rows, columns).")
@settings(max_examples=60)
@given(
    seed=seeds, n_q=st.integers(1, 7), n_k=st.integers(1, 9), block_q=st.integers(1, 4), block_k=st.integers(1, 4),
    window=st.sampled_from([None, 1, 2, 5]), offset=st.sampled_from([None, -3, 0, 2]),
)  # fmt: skip
@example(seed=1, n_q=5, n_k=9, block_q=2, block_k=4, window=5, offset=None)
def test_each_query_sees_what_the_mask_shows_it_across_tiles(seed, n_q, n_k, block_q, block_k, window, offset):
    q, k, v = draws(seed, (n_q, 4), (n_k, 4), (n_k, 4))
    check_flash2(q, k, v, block_q, block_k, window=window, offset=offset)


class Tape:
    """Keys or values in slow memory: what is loaded is written down."""

    for_submissions = ("shape", "dtype", "ndim", "T")

    def __init__(self, array):
        self.array, self.loads = array, []
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim

    def __len__(self):
        return len(self.array)

    def __getitem__(self, index):
        part = index[0] if isinstance(index, tuple) else index
        self.loads.append(sorted({int(i) for i in np.arange(len(self.array))[part].ravel()}))
        return np.array(self.array[index])  # no view: what lies beside it was not loaded

    @property
    def T(self):
        self.loads.append(list(range(len(self.array))))  # all of it at once
        return np.array(self.array.T)

    def __array__(self, dtype=None, copy=None):
        self.loads.append(list(range(len(self.array))))
        return np.array(self.array, dtype)


@exercise(
    "03.4",
    points=1,
    hint=(
        "With a causal mask half of all tiles are hidden from all their rows: do not load them.",
        "mask.span(rows) is the range of keys that any of these rows sees: cut that, not 0 … n_k.",
    ),
)
@pytest.mark.parametrize(("n_q", "n_k", "window"), [(8, 8, None), (4, 12, None), (8, 16, 5), (4, 4, 1), (12, 8, None)])
def test_masked_keys_are_not_loaded_and_the_rest_tile_by_tile(n_q, n_k, window):
    q, k, v = draws(7, (n_q, 3), (n_k, 3), (n_k, 3))
    seen, block, tapes = oracles.visible(n_q, n_k, True, window, n_k - n_q), 4, (Tape(k), Tape(v))
    tiles_seen = [(a, b) for a in range(0, n_q, 4) for b in range(0, n_k, 4) if seen[a : a + 4, b : b + 4].any()]
    flash2(q, *tapes, Mask(n_q, n_k, window=window), block, block)
    for name, tape in zip("kv", tapes, strict=True):
        what = f"{n_q} queries on {n_k} keys, window {window}, tiles of {block} × {block}:"
        most, loaded = max(map(len, tape.loads), default=0), sum(map(len, tape.loads))
        assert most <= block, f"{what} {most} rows of {name} are loaded at once; fast memory has room for a tile of {block}"
        needed, every = len(tiles_seen) * block, -(-n_q // block) * n_k
        why = " that is every tile, also those that the mask hides from all rows" * (loaded == every > needed)
        assert loaded <= needed, f"{what} {loaded} rows of {name} are loaded, {needed} are enough;{why}"


@exercise("03.4", points=0, hint="No key: no tile, and the state stays fresh. divide and log_sum_exp do the rest.")
@pytest.mark.parametrize(("n_q", "n_k", "offset"), [(3, 0, 0), (5, 2, -3), (2, 4, -9)])
def test_queries_that_see_no_key_give_zeros_and_minus_infinity(n_q, n_k, offset):
    check_flash2(*draws(8, (n_q, 4), (n_k, 4), (n_k, 4)), block_q=2, block_k=3, offset=offset)
