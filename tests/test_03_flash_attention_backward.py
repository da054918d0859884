"""Exercise 03.6: what one tile adds to the gradients; and the gradients as a whole, against finite differences in float64."""

import mistakes_attention as mistakes
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.attention.backward import attention_backward, flash_backward, tile_backward
from minillm.attention.flash import flash_attention
from minillm.course.checks import check_close, draws, exercise, seeds
from minillm.errors import MiniLLMError

NAMES = ("dq", "dk", "dv")


def slips_of_factors(q, k, v, s, lse, delta, d_out):  # -> {words: (dq, dk, dv)}
    p, dp = np.exp(s - np.where(np.isneginf(lse), 0, lse)[:, None]), d_out @ v.T
    ds = p * (dp - delta[:, None])
    ways = {"dv is made of dS: values are weighted by P, so dv = Pᵀ dO": (ds @ k, ds.T @ q, ds.T @ d_out)}
    if len(q) == len(k):
        turned = p * (dp.T - delta[:, None])
        ways["dP is transposed: dP = dO Vᵀ has a row for each query"] = turned @ k, turned.T @ q, p.T @ d_out
    return ways


def check_tile(seed, r, n, d, tile, seen=True):
    """tile_backward of r queries on the keys of a tile, out of n; seen: which of the (r, n) scores are not hidden."""
    q, k, v, d_out = draws(seed, (r, d), (n, d), (n, d), (r, d))
    scores = np.where(seen, np.array([[sum(q[i] * k[j]) for j in range(n)] for i in range(r)]) / np.sqrt(d), -np.inf)
    right = oracles.tile_gradients(q, k, v, scores, d_out, tile)
    m, l, acc = oracles.max_sum_acc(scores, v)
    with np.errstate(divide="ignore"):
        lse, delta = m + np.log(l), (d_out * acc / np.where(l, l, 1)[:, None]).sum(axis=1)
    given = q, k[tile], v[tile], *(x.astype(np.float32) for x in (scores[:, tile], lse, delta)), d_out
    found = tile_backward(*(x.copy() for x in given))
    for i, name in enumerate(NAMES):
        ways = lambda i=i: mistakes.of(mistakes.tile_backward(*given) | slips_of_factors(*given), found, i)  # noqa: E731
        what = f"{name} of {r} queries and keys {tile.start}:{tile.stop} of {n}, d = {d},"
        check_close(found[i], right[i], rtol=1e-3, what=what, mistakes=ways, dtype=np.float32)


@exercise(
    "03.6",
    points=2,
    hint=(
        "In the formula at the top of the module: which of P, dP, dS, dq, dk and dv needs which of the others?",
        "P = exp(S - lse) needs no maximum and no sum: lse has both. dP = dO Vᵀ.",
        "dS = P ∘ (dP - delta), one delta for each row (delta[:, None]). dq = dS K, dk = dSᵀ Q, dv = Pᵀ dO.",
    ),
)
@pytest.mark.parametrize("n", [4, 3, 1])
def test_a_tile_that_holds_all_keys_gives_the_gradients(n):
    check_tile(seed=n, r=n, n=n, d=n, tile=slice(0, n))  # square: what should be transposed still multiplies


@exercise(
    "03.6",
    points=2,
    hint="A tile's P are weights in the softmax of the whole row: exp(S - lse), they do not add up to 1 in the tile.",
)
@settings(max_examples=30)
@given(seed=seeds, r=st.integers(1, 4), n=st.integers(1, 5), d=st.sampled_from([3, 4, 1]), data=st.data())
def test_a_tile_of_a_longer_row_adds_its_part(seed, r, n, d, data):
    start = data.draw(st.integers(0, n - 1))
    check_tile(seed, r, n, d, slice(start, data.draw(st.integers(start + 1, n))))


@exercise(
    "03.6",
    points=1,
    hint=(
        "Hidden scores are -inf in s, and exp(-inf) is 0: start from s.",
        "A row that saw nothing has lse = -inf too; norm has 0 there, and exp(-inf - 0) is 0.",
    ),
)
@settings(max_examples=20)
@given(seed=seeds, r=st.integers(1, 4), n=st.integers(1, 5), offset=st.integers(-3, 1))
def test_hidden_keys_and_rows_that_saw_nothing_add_nothing(seed, r, n, offset):
    check_tile(seed, r, n, 2, slice(0, n), seen=oracles.visible(r, n, True, None, offset))


# --- the gradients of whole attention: no exercise ------------------------------------------------------------------------


MASKS = st.sampled_from(
    [{}, {"causal": False}, {"window": 1}, {"window": 3}, {"offset": -2}, {"offset": 1}, {"window": 2, "offset": -9}]
)


@settings(max_examples=25)
@given(
    seed=seeds, n_q=st.integers(1, 4), n_k=st.integers(0, 5), heads=st.sampled_from([(1, 1), (2, 2), (3, 1), (4, 2)]),
    d=st.sampled_from([1, 3]), how=MASKS, block_q=st.integers(1, 3), block_k=st.integers(1, 3),
)  # fmt: skip
def test_both_gradients_are_the_finite_differences(seed, n_q, n_k, heads, d, how, block_q, block_k):
    """Relative 1e-3 of float32 results; the differences themselves are good to 1e-7."""
    q, k, v, d_out = draws(seed, (n_q, heads[0], d), (n_k, heads[1], d), (n_k, heads[1], d), (n_q, heads[0], d))
    right = oracles.attention_gradients(q, k, v, d_out, **how)
    out, lse = flash_attention(q, k, v, **how)
    flash = flash_backward(q, k, v, out, lse, d_out, block_q=block_q, block_k=block_k, **how)
    for name, whole, tiled, expected in zip(NAMES, attention_backward(q, k, v, d_out, **how), flash, right, strict=True):
        assert whole.dtype == tiled.dtype == np.float32
        check_close(whole, expected, rtol=1e-3, what=f"{name} of attention_backward, {how}")
        check_close(tiled, expected, rtol=1e-3, what=f"{name} of flash_backward in tiles of {block_q} × {block_k}, {how}")


@pytest.mark.parametrize(("block_q", "block_k"), [(7, 5), (64, 64), (1, 32)])
def test_on_longer_rows_the_tiles_give_what_the_whole_matrix_gives(block_q, block_k):
    q, k, v, d_out = draws(2, (33, 9, 16), (70, 3, 16), (70, 3, 16), (33, 9, 16))
    k[35:] *= 4  # later tiles do raise the maximum
    right = attention_backward(*(x.astype(np.float64) for x in (q, k, v, d_out)), window=40)
    out, lse = flash_attention(q, k, v, window=40)
    found = flash_backward(q, k, v, out, lse, d_out, window=40, block_q=block_q, block_k=block_k)
    for name, tiled, expected in zip(NAMES, found, right, strict=True):
        check_close(tiled, expected, rtol=1e-3, atol=1e-4, what=name)


def test_gradients_of_what_belongs_to_another_forward_are_refused():
    q, k, v = draws(3, (3, 2, 4), (5, 1, 4), (5, 1, 4))
    out, lse = flash_attention(q, k, v)
    for bad in ((out[:2], lse, q), (out, lse[:2], q), (out, lse.T, q), (out, lse, q[:, :1])):
        with pytest.raises(MiniLLMError, match=r"do not belong to q \(3, 2, 4\)"):
            flash_backward(q, k, v, *bad)
    with pytest.raises(MiniLLMError, match="block_k .* at least 1; found 0"):
        flash_backward(q, k, v, out, lse, q, block_k=0)
    with pytest.raises(MiniLLMError, match=r"k \(5, 1, 4\) and v \(4, 1, 4\)"):
        attention_backward(q, k, v[:4], q)
