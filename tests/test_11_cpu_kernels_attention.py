"""The Numba backend's attention against float64 loops: every shape, both widths of cache, any number of threads.

Tolerance: 2e-6 of the largest value beside 1e-5 of each one. float32 sums of some hundred terms of either sign are off by
about 1e-6; a wrong rescale, mask or head is off by far more. The oracle sees the float16 values that the kernel sees.
"""

import subprocess
import sys

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm import LLM, SamplingParams
from minillm.attention import flash
from minillm.backends import get_backend
from minillm.backends.numba_.team import set_threads, threads
from minillm.backends.ops import REQUIRED
from minillm.course.checks import check_close
from minillm.errors import MiniLLMError

ops = get_backend("numba")
SIZES = (1, 2, 3, 4, 5, 6, 7, 15, 16, 17, 63, 64, 65, 100, 129, 200)  # the tiles' sizes, 4, 6, 16 and 64, and their tails
HEADS = ((1, 1), (2, 2), (3, 1), (9, 3), (9, 1), (6, 2), (5, 5))  # ratios 1, 3, 9; odd; multi-query
WIDTHS = (1, 5, 16, 64, 80, 128, 112)  # no vector; a part of one; 1, 4, 5, 8 and 7 of them
BUDGET = 100_000  # multiply-adds that the oracle's loops may take


def draws(seed, n_q, n_k, heads, kv_heads, d, dtype=np.float32, strided=False):
    """q, k, v; strided: k and v as every second token of the middle layer of a larger cache, with garbage around."""
    rng = np.random.default_rng(seed)
    q = rng.standard_normal((n_q, heads, d), np.float32)
    kv = [(2 * rng.standard_normal((n_k, kv_heads, d), np.float32)).astype(dtype) for _ in "kv"]
    if strided:
        cache = np.full((2, 3, 2 * n_k + 1, kv_heads + 1, d + 2), np.nan, dtype)
        views = [cache[i, 1, 1 : 2 * n_k + 1 : 2, 1:, 1 : d + 1] for i in (0, 1)]
        for view, values in zip(views, kv, strict=True):
            view[:] = values
        kv = views
    return q, *kv


@st.composite
def problems(draw):
    heads, kv_heads = draw(st.sampled_from(HEADS))
    d = draw(st.sampled_from(WIDTHS))
    n_k = draw(st.sampled_from([0, *(n for n in SIZES if n * heads * d <= BUDGET)]))
    n_q = draw(st.sampled_from([n for n in SIZES if n * max(n_k, 1) * heads * d <= BUDGET]))
    causal = draw(st.sampled_from([True, True, True, False]))
    window = draw(st.none() | st.sampled_from((1, 2, 20, 64, 70))) if causal else None
    offset = draw(st.none() | st.integers(-n_q - 1, n_k + 2))
    dtype = draw(st.sampled_from([np.float32, np.float16]))
    arrays = draws(draw(st.integers(0, 99)), n_q, n_k, heads, kv_heads, d, dtype, draw(st.booleans()))
    return arrays, {"causal": causal, "window": window, "offset": offset}


def check(actual, expected, what):
    scale = max(1.0, float(np.abs(expected[np.isfinite(expected)]).max(initial=0)))
    check_close(actual, expected, rtol=1e-5, atol=2e-6 * scale, what=what)


@settings(max_examples=80, deadline=None)
@given(problems(), st.integers(1, 9))
def test_every_variant_gives_the_oracles_output_and_log_sum_exp(problem, splits):
    (q, k, v), mask = problem
    expected, expected_lse = oracles.attention_and_lse(q, k, v, **mask)
    for name, (out, lse) in {
        "flash_attention": ops.flash_attention(q, k, v, **mask),
        "split_kv_attention": ops.split_kv_attention(q, k, v, splits, **mask),
    }.items():
        assert out.dtype == lse.dtype == np.float32
        check(out, expected, f"{name}: output")
        check(lse, expected_lse, f"{name}: log-sum-exp")
    if mask["causal"]:
        check(ops.attention(q, k, v, mask["window"], mask["offset"]), expected, "attention")


LONG = [(1, 700, 3, 1, 16), (420, 420, 1, 1, 5), (70, 131, 9, 3, 16), (4, 300, 2, 2, 64)]


@pytest.mark.parametrize("n_q, n_k, heads, kv_heads, d", LONG)
@pytest.mark.parametrize("window", [None, 90])
def test_longer_than_a_tile_of_queries_and_than_a_split(n_q, n_k, heads, kv_heads, d, window):
    q, k, v = draws(7, n_q, n_k, heads, kv_heads, d)
    k[n_k // 2 :] *= 3  # later keys raise the maximum
    expected, expected_lse = oracles.attention_and_lse(q, k, v, window=window)
    for out, lse in (ops.flash_attention(q, k, v, window=window), ops.split_kv_attention(q, k, v, 3, window=window)):
        check(out, expected, "output")
        check(lse, expected_lse, "log-sum-exp")


@pytest.mark.parametrize("n_q", [1, 3, 450])
def test_one_thread_and_two_give_the_same_bits(n_q):
    q, k, v = draws(3, n_q, 900, 9, 3, 64)
    before = threads()
    try:
        results = []
        for count in (1, 2, 3):
            set_threads(count)
            results.append([*ops.flash_attention(q, k, v), *ops.split_kv_attention(q[:3], k, v, 5)])
    finally:
        set_threads(before)
    assert all(np.array_equal(a, b) for a, b in zip(results[0], results[-1], strict=True))


@pytest.mark.parametrize("window", [None, 90])
def test_a_row_does_not_depend_on_the_rows_computed_with_it(window):
    """Chunks of a prompt give what the whole prompt gives, bit for bit, as long as the same kernel has them."""
    q, k, v = draws(4, 300, 300, 3, 1, 64)
    whole = ops.attention(q, k, v, window)
    for a, b in ((0, 7), (7, 100), (100, 300)):
        assert np.array_equal(ops.attention(q[a:b], k[:b], v[:b], window), whole[a:b])


def test_scores_far_apart_neither_overflow_nor_vanish():
    q, k, v = draws(5, 80, 80, 1, 1, 16)
    for scale in (30, -30, 1e4):
        expected, expected_lse = oracles.attention_and_lse(q * np.float32(scale), k, v)
        out, lse = ops.flash_attention(q * np.float32(scale), k, v)
        check_close(lse, expected_lse, rtol=1e-5, what="log-sum-exp")
        check_close(out, expected, rtol=1e-2, atol=2e-2, what="output")  # a score of 1e4 is itself off by 1e-3


def test_the_cache_is_read_where_it_lies(two_threads):
    """Beside its result a call takes a scratch that does not grow with the number of keys."""
    import tracemalloc

    from minillm.backends.numba_.team import set_threads

    set_threads(1)  # each has a scratch, and how many come depends on the machine
    def peak(n_q, n_k):
        q, k, v = draws(0, n_q, n_k, 2, 1, 64, np.float16, strided=True)
        ops.attention(q, k, v)
        tracemalloc.start()
        ops.attention(q, k, v)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size - q.nbytes

    assert peak(50, 12_000) < peak(50, 300) + 10_000
    assert peak(1, 12_000) < peak(1, 2048) + 10_000  # 32 splits and no more
    assert peak(4_000, 4_000) < 2 * peak(400, 400) + 4_000 * 2 * 4


BAD = [np.nan, np.inf]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("n_q, d", [(1, 64), (30, 64), (30, 5)])
@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_what_is_not_finite_is_named_with_its_place(name, n_q, d, bad):
    arrays = dict(zip("qkv", draws(0, n_q, 40, 6, 2, d), strict=True))
    arrays["q"][:, :, 3] = 1.0  # times inf is inf; times a negative number it would be -inf, which a softmax may ignore
    place = (n_q // 2, 1, 3)
    arrays[name][place] = bad
    with pytest.raises(MiniLLMError, match=rf"{name} holds {bad} at token {place[0]}, head 1 "):
        ops.attention(*arrays.values())


def test_a_score_that_overflows_is_not_returned_as_a_number():
    q, k, v = draws(0, 10, 10, 1, 1, 16)
    with pytest.raises(MiniLLMError, match="overflow"):
        ops.attention(q * np.float32(1e20), k * np.float32(1e20), v)


@pytest.mark.parametrize(
    "q, k, v",
    [
        ((3, 2, 8), (3, 2, 8), (4, 2, 8)),
        ((3, 2, 8), (3, 2, 16), (3, 2, 16)),
        ((3, 2, 8), (3, 8), (3, 8)),
        ((3, 4, 8), (3, 3, 8), (3, 3, 8)),
        ((3, 4, 8), (3, 0, 8), (3, 0, 8)),
    ],
)
def test_shapes_that_disagree_are_refused_in_one_line_that_shows_them(q, k, v):
    for attend in (ops.attention, ops.flash_attention, lambda *a: ops.split_kv_attention(*a, 2)):
        with pytest.raises(MiniLLMError) as error:
            attend(*(np.ones(shape, np.float32) for shape in (q, k, v)))
        assert "\n" not in str(error.value)
        assert (str(q) in str(error.value) and str(k) in str(error.value)) or "cannot share" in str(error.value)


def test_a_window_or_a_number_of_splits_below_one_is_refused():
    q, k, v = draws(0, 3, 3, 1, 1, 16)
    for call in (lambda: ops.attention(q, k, v, 0), lambda: ops.split_kv_attention(q, k, v, 0)):
        with pytest.raises(MiniLLMError, match="at least 1"):
            call()


def test_the_backend_offers_what_the_reference_offers():
    assert [name for name in REQUIRED if not callable(getattr(ops, name))] == []
    q, k, v = draws(9, 40, 40, 6, 2, 64)
    check(ops.attention(q, k, v), flash.flash_attention(q, k, v)[0], "numba against the NumPy reference")


def test_a_model_writes_the_same_tokens_with_this_backend(tiny_path):
    prompts, params = ["Once upon a time", "a", "the " * 40], SamplingParams(max_tokens=8, ignore_eos=True)
    ours, reference = (LLM(tiny_path, backend=name).generate(prompts, params) for name in ("numba", "numpy"))
    assert [c.token_ids for c in ours] == [c.token_ids for c in reference]


def test_naming_the_backend_does_not_load_it():
    code = "import sys, minillm, minillm.backends; print('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
