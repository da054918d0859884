"""LLM.int8() and SmoothQuant on arrays: against loops in float64, where the order must hold, and what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.errors import MiniLLMError
from minillm.quantization.int8 import int8_linear, int8_matmul_blas, quantize_int8
from minillm.quantization.llm_int8 import llm_int8, outlier_columns
from minillm.quantization.smoothquant import smooth, smoothing_scales

seeds = st.integers(0, 2**32 - 1)


def drawn(seed, n=5, columns=24, rows=4, times=30.0):
    """Activations of which a few columns are loud, and weights."""
    rng = np.random.default_rng(seed)
    loud = np.where(rng.random(columns) < 0.1, times, 1)
    return (rng.standard_normal((n, columns)) * loud).astype(np.float32), rng.standard_normal((rows, columns), np.float32)


def slow_codes(row):  # [float] -> codes, scale
    top = max(map(abs, row), default=0)
    return ([round(v / (top / 127)) for v in row], top / 127) if top else ([0] * len(row), 0)


def slow_llm_int8(x, w, threshold):
    """Equation 8, one product after another."""
    apart = {j for row in x for j, v in enumerate(row) if abs(v) > threshold}
    rest, out = [j for j in range(len(w[0])) if j not in apart], []
    for row in x:
        codes, scale = slow_codes([row[j] for j in rest])
        out.append([])
        for weights in w:
            w_codes, w_scale = slow_codes([weights[j] for j in rest])
            whole = sum(a * b for a, b in zip(codes, w_codes, strict=True))
            out[-1].append(sum(row[j] * weights[j] for j in apart) + whole * scale * w_scale)
    return out


def error(found, x, w):
    want = x.astype(np.float64) @ w.T.astype(np.float64)
    return float(np.square(found - want).sum() / np.square(want).sum())


@settings(max_examples=60)
@given(seeds, st.integers(1, 5), st.integers(1, 30), st.integers(1, 4), st.sampled_from([0.0, 2.0, 6.0, 1e9]))
def test_llm_int8_is_equation_8(seed, n, columns, rows, threshold):
    x, w = drawn(seed, n, columns, rows)
    want = np.array(slow_llm_int8(x.tolist(), w.tolist(), threshold))
    size = np.abs(x).max() * np.abs(w).max() * columns
    for found in (llm_int8(x, w, threshold), llm_int8(x, w, threshold, int8_matmul_blas)):
        assert found.dtype == np.float32 and found.shape == (n, rows)
        # A code on the edge of two steps may fall either way in float32: one step of one column is allowed.
        np.testing.assert_allclose(found, want, atol=size / columns / 127 * 1.01 if np.abs(found - want).max() > 1e-4 else 1e-4)


def test_one_outlier_makes_its_column_float_for_every_token():
    x = np.float32([[1, 6, -2], [0, 1, -6.001]])
    assert outlier_columns(x).tolist() == [False, False, True], "above the threshold, not at it"
    assert outlier_columns(x, 0).tolist() == [True, True, True] and not outlier_columns(x, 7).any()
    w = np.float32([[1, 2, 1 / 3]])
    exact = x[:, 2:] @ w[:, 2:].T
    rest = int8_linear(quantize_int8(x[:, :2]), quantize_int8(w[:, :2]))
    assert np.array_equal(llm_int8(x, w), exact + rest)


def test_without_outliers_it_is_vector_wise_int8_and_with_outliers_only_it_is_the_float_product():
    x, w = drawn(1, times=1.0)
    assert np.array_equal(llm_int8(x, w), int8_linear(quantize_int8(x), quantize_int8(w)))
    assert np.allclose(llm_int8(x, w, 0.0), x @ w.T, atol=1e-5)
    zeros = np.zeros((2, 24), np.float32)
    assert not llm_int8(zeros, w).any() and not llm_int8(x, zeros).any() and llm_int8(x[:0], w).shape == (0, 4)


@given(seeds)
def test_under_an_outlier_of_1e4_only_what_takes_it_apart_or_moves_it_is_right(seed):
    x, w = drawn(seed, 32, 64, 16, times=1.0)
    x[:, 5] = 1e4
    x[3] = 0
    w[:, 5] /= 1e4  # what the column says is as much as any other says: the product is not that of the outlier alone
    plain = error(int8_linear(quantize_int8(x, "tensor"), quantize_int8(w, "tensor")), x, w)
    rows = error(int8_linear(quantize_int8(x, "row"), quantize_int8(w, "row")), x, w)
    a, b = smooth(x, w, smoothing_scales(np.abs(x).max(axis=0), w))
    smoothed = error(int8_linear(quantize_int8(a, "tensor"), quantize_int8(b, "tensor")), x, w)
    assert plain > 0.5 and rows > 0.5, "all other columns are 0"
    assert error(llm_int8(x, w), x, w) < 1e-3 and smoothed < 1e-2


@given(seeds, st.integers(1, 12), st.integers(1, 3), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))
def test_smoothing_scales_are_equation_4(seed, columns, count, alpha):
    rng = np.random.default_rng(seed)
    x_max = 10.0 ** rng.uniform(-2, 2, columns)
    matrices = [(rng.standard_normal((3, columns)) + 2).astype(np.float32) for _ in range(count)]
    found = smoothing_scales(x_max, matrices if count > 1 else matrices[0], alpha)
    for j in range(columns):
        w_max = max(abs(float(w[i, j])) for w in matrices for i in range(3))
        assert found[j] == pytest.approx(x_max[j] ** alpha / w_max ** (1 - alpha), rel=1e-5)


def test_the_product_stays_and_both_have_the_same_outliers_at_a_half():
    x, w = drawn(7, 20)
    s = smoothing_scales(np.abs(x).max(axis=0), w)
    a, b = smooth(x, w, s)
    assert np.allclose(a @ b.T, x @ w.T, rtol=1e-5, atol=1e-4)
    assert np.allclose(np.abs(a).max(axis=0), np.abs(b).max(axis=0), rtol=1e-5)
    flat, _ = smooth(x, w, smoothing_scales(np.abs(x).max(axis=0), w, 1.0))
    _, weights = smooth(x, w, smoothing_scales(np.abs(x).max(axis=0), w, 0.0))
    assert np.allclose(np.abs(flat).max(axis=0), 1) and np.allclose(np.abs(weights).max(axis=0), 1)


def test_columns_that_are_dead_keep_their_size_and_tiny_ones_are_bounded():
    w = np.float32([[1, 0, 1, 1], [1, 0, -1, 1]])
    s = smoothing_scales(np.float32([4, 4, 0, 1e-30]), w)
    assert s[:3].tolist() == [2, 1, 1] and s[3] == pytest.approx(np.sqrt(4e-5)) and np.isfinite(s).all()
    assert smoothing_scales(np.float32([3]), np.zeros((2, 1))).tolist() == [1]
    assert np.isfinite(smoothing_scales(np.float32([1, 1]), np.float32([[1, 1e-40]]), 0.0)).all()


ONES = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: smoothing_scales(np.ones(3), ONES, 1.5), "migration strength is 0 to 1, found 1.5"),
        (lambda: smoothing_scales(np.ones(3), ONES, float("nan")), "migration strength is 0 to 1, found nan"),
        (lambda: smoothing_scales(np.zeros(3), ONES), "needs a calibration: expected inputs above 0, found none"),
        (lambda: smoothing_scales(np.ones(4), ONES), r"a maximum for each of \(3,\) columns, found shape \(4,\)"),
        (lambda: smoothing_scales(np.ones(3), [ONES, ONES[:, :2]]), r"each of \(2,\) columns, found shape \(3,\)"),
        (lambda: smoothing_scales(np.array([1, np.nan, 2]), ONES), "maxima from nan to nan"),
        (lambda: smoothing_scales(np.array([1, -1, 2]), ONES), "maxima from -1 to 2"),
        (lambda: smoothing_scales(np.ones(3), ONES * np.inf), "found 6 weights that are not"),
        (lambda: llm_int8(ONES, ONES[:, :2]), "w of 3 columns, as x has, found 2"),
        (lambda: llm_int8(ONES * np.nan, ONES), "found 6 of 6 values"),
        (lambda: llm_int8(ONES, ONES, -1.0), "a threshold of at least 0, found -1"),
    ],
)
def test_what_has_no_answer_is_refused_with_both_numbers(call, said):
    with pytest.raises(MiniLLMError, match=said):
        call()
