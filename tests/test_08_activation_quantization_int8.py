"""W8A8: codes, scales and sums against loops of whole numbers and float64; what is static; what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from minillm.errors import MiniLLMError
from minillm.quantization.int8 import (
    MOST,
    Int8Matrix,
    int8_codes,
    int8_linear,
    int8_matmul,
    int8_matmul_blas,
    int8_scales,
    quantize_int8,
    static_errors,
    static_scales,
)

PRODUCTS = [int8_matmul, int8_matmul_blas]
seeds = st.integers(0, 2**32 - 1)


def drawn(seed, rows, columns):
    """Numbers of all sizes, a row and a column of zeros among them, and sometimes an outlier of 1e4."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((rows, columns)) * 10.0 ** rng.integers(-3, 3)).astype(np.float32)
    x[rng.integers(rows)] *= rng.integers(2)
    x[:, rng.integers(columns)] *= rng.integers(2)
    if rng.integers(2):
        x[rng.integers(rows), rng.integers(columns)] = 1e4
    return x


def slow_scales(x, per):  # [[float]] -> [[scale of each element]]
    groups = {"tensor": lambda i, j: 0, "row": lambda i, j: i, "column": lambda i, j: j}[per]
    tops = {}
    for i, row in enumerate(x):
        for j, value in enumerate(row):
            tops[groups(i, j)] = max(tops.get(groups(i, j), 0.0), abs(value))
    return [[tops[groups(i, j)] / 127 for j, _ in enumerate(row)] for i, row in enumerate(x)]


@given(seeds, st.integers(1, 9), st.integers(1, 9), st.sampled_from(["tensor", "row", "column"]))
def test_each_number_has_the_code_of_the_nearest_step(seed, rows, columns, per):
    x = drawn(seed, rows, columns)
    found, want = quantize_int8(x, per), slow_scales(x.tolist(), per)
    assert found.codes.dtype == np.int8 and found.scales.dtype == np.float32
    assert found.scales.shape == {"tensor": (1, 1), "row": (rows, 1), "column": (1, columns)}[per]
    for i in range(rows):
        for j in range(columns):
            scale, code, value = want[i][j], int(found.codes[i, j]), float(x[i, j])
            assert -127 <= code <= 127
            if scale == 0:
                assert code == 0
            else:
                assert abs(code - value / scale) <= 0.5 + 1e-4, "no other step is nearer"
                assert abs(found.dense()[i, j] - code * scale) <= 1e-6 * abs(value) + 1e-30


def test_the_largest_magnitude_has_code_127_on_both_sides_and_ties_go_to_even():
    x = np.float32([[-254, 254, 3, 5, -3, 0]])
    assert quantize_int8(x).codes.tolist() == [[-127, 127, 2, 2, -2, 0]], "1.5 and 2.5 are 2"
    assert quantize_int8(np.float32([[0, 0], [-1e-40, 0]])).codes.tolist() == [[0, 0], [0, 0]]
    assert not quantize_int8(np.zeros((3, 4))).dense().any()
    assert quantize_int8(np.float32([[3e38, -3.4e38]])).codes.tolist() == [[112, -127]]


def test_one_outlier_takes_the_steps_of_its_tensor_or_its_row():
    x = np.full((3, 4), 1, np.float32)
    x[1, 2] = 1e4
    assert quantize_int8(x, "tensor").codes.tolist() == [[0] * 4, [0, 0, 127, 0], [0] * 4]
    assert quantize_int8(x, "row").codes.tolist() == [[127] * 4, [0, 0, 127, 0], [127] * 4]
    assert quantize_int8(x, "column").codes.tolist() == [[127, 127, 0, 127], [127] * 4, [127, 127, 0, 127]]


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("columns", [0, 1, 7, 1024, 1025, 2500])
@pytest.mark.parametrize("low", [-128, -127])
def test_sums_are_those_of_int64_to_the_bit(product, columns, low):
    rng = np.random.default_rng(columns)
    x, w = (rng.integers(low, 128, (rows, columns)).astype(np.int8) for rows in (3, 5))
    x[0], w[0], x[1], w[1] = low, low, 127, low
    found = product(x, w)
    want = [[sum(int(a) * int(b) for a, b in zip(p, q, strict=True)) for q in w] for p in x]
    assert found.dtype == np.int32 and found.shape == (3, 5) and found.tolist() == want
    assert found[0, 0] == low * low * columns and found[1, 1] == 127 * low * columns


@given(arrays(np.int8, (2, 40)), arrays(np.int8, (3, 40)))
def test_any_codes_have_the_same_sums_both_ways(x, w):
    want = x.astype(np.int64) @ w.astype(np.int64).T
    assert (int8_matmul(x, w) == want).all() and (int8_matmul_blas(x, w) == want).all()


@pytest.mark.parametrize("product", PRODUCTS)
def test_the_longest_sum_is_held_and_a_longer_one_is_refused(product):
    longest = np.full((1, MOST), -128, np.int8)
    assert product(longest, longest) == [[MOST * 2**14]]
    longer = np.full((1, MOST + 1), -128, np.int8)
    with pytest.raises(MiniLLMError, match="int32 holds 131,071 products, found 131,072 columns"):
        product(longer, longer)


@settings(max_examples=50)
@given(seeds, st.integers(1, 6), st.integers(1, 70), st.integers(1, 6), st.sampled_from(["tensor", "row"]),
       st.sampled_from(["tensor", "row"]))  # fmt: skip
def test_the_product_is_that_of_the_dequantized_matrices(seed, n, columns, rows, x_per, w_per):
    x, w = quantize_int8(drawn(seed, n, columns), x_per), quantize_int8(drawn(seed + 1, rows, columns), w_per)
    want = (x.codes * x.scales.astype(np.float64)) @ (w.codes * w.scales.astype(np.float64)).T
    for product in PRODUCTS:
        found = int8_linear(x, w, product)
        assert found.dtype == np.float32 and found.shape == (n, rows)
        np.testing.assert_allclose(found, want, rtol=1e-6, atol=1e-37)


def test_scales_of_columns_do_not_come_out_of_the_sum():
    x, w = quantize_int8(np.ones((2, 3)), "column"), quantize_int8(np.ones((4, 3)), "row")
    with pytest.raises(MiniLLMError, match=r"x's of shape \(rows, 1\) or \(1, 1\), found \(1, 3\)"):
        int8_linear(x, w)
    with pytest.raises(MiniLLMError, match="w's of shape"):
        int8_linear(w, x)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), seeds, st.sampled_from(["tensor", "column"]))
def test_static_scales_are_of_all_batches(sizes, seed, per):
    batches = [drawn(seed + i, size, 6) for i, size in enumerate(sizes)]
    found = static_scales(iter(batches), per)
    assert np.array_equal(found, int8_scales(np.concatenate(batches), per))
    assert quantize_int8(batches[-1], scales=found).scales is found


def test_static_scales_clip_what_is_larger_later_and_the_split_of_the_error_tells():
    scales = static_scales([np.float32([[1, -2]]), np.float32([[127, 5]])])
    assert scales.tolist() == [[1]]
    x = np.float32([[126.6, 127.3, -300, 3.25], [1e38, -3e38, 0, 0]])
    assert int8_codes(x, scales).tolist() == [[127, 127, -127, 3], [127, -127, 0, 0]]
    clipped, rounded = static_errors(x[:1], scales)
    whole = 126.6**2 + 127.3**2 + 300**2 + 3.25**2
    assert clipped == pytest.approx((0.3**2 + 173**2) / whole, rel=1e-4), "beyond 127 is clipped, by however little"
    assert rounded == pytest.approx((0.4**2 + 0.25**2) / whole, rel=1e-4)
    assert static_errors(np.float32([[126.6, 3.25]]), scales)[0] == 0
    assert static_errors(np.zeros((2, 2)), scales) == (0, 0)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: static_scales([]), "need a calibration: expected at least 1 batch of activations, found 0"),
        (lambda: static_scales([np.ones((2, 3)), np.ones((2, 4))], "column"), "expected 3 columns, as before, found 4"),
        (lambda: static_scales([np.ones((2, 3))], "row"), "static scales are per tensor or column, found 'row'"),
        (lambda: int8_scales(np.ones((2, 3)), "rows"), "per tensor, row or column, found 'rows'; did you mean 'row'"),
        (lambda: int8_scales(np.float32([[1, np.nan], [np.inf, 2]])), "NaN or infinity; found 2 of 4 values"),
        (lambda: int8_codes(np.float32([[np.nan]]), np.ones((1, 1))), "NaN or infinity; found 1 of 1 values"),
        (lambda: int8_scales(np.array([[1e300]])), "found 1 of 1 values"),
        (lambda: int8_scales(np.ones(3)), r"a matrix of 2 axes, found shape \(3,\)"),
        (lambda: int8_codes(np.ones((2, 3)), np.ones((3, 1))), r"\(2, 1\), \(1, 1\) or \(1, 3\), found \(3, 1\)"),
        (lambda: int8_codes(np.ones((2, 3)), np.zeros((1, 1))), "finite scales above 0, found 0.0"),
        (lambda: int8_matmul(np.ones((2, 3), np.int8), np.ones((2, 4), np.int8)), r"int8 \(2, 3\) and int8 \(2, 4\)"),
        (lambda: int8_matmul(np.ones((2, 3), np.int8), np.ones((2, 3), np.uint8)), r"int8 \(2, 3\) and uint8 \(2, 3\)"),
    ],
)
def test_what_has_no_codes_is_refused_with_both_numbers(call, said):
    with pytest.raises(MiniLLMError, match=said):
        call()


def test_bytes_are_those_of_the_codes_and_the_scales():
    assert quantize_int8(np.ones((6, 10)), "row").nbytes == 60 + 24
    assert Int8Matrix(np.zeros((2, 2), np.int8), np.ones((1, 1), np.float32)).nbytes == 8
