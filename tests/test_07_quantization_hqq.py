"""HQQ: against plain loops, never worse than rounding to nearest in its own norm, the same in every unit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.errors import MiniLLMError
from minillm.quantization.affine import BITS, Grid, round_to_nearest
from minillm.quantization.hqq import hqq, shrink


def drawn(seed, rows=3, columns=48):
    return np.random.default_rng(seed).standard_t(4, (rows, columns)).astype(np.float32)


def p_norms(weights, rounded, group, p=0.7):  # -> (rows, groups)
    wrong = np.abs(weights.astype(np.float64) - rounded).reshape(len(weights), -1, group)
    return (wrong**p).sum(axis=2)


def slow_minimum(group, bits, p=0.7, beta=10.0, growth=1.01, iterations=20):  # [float], int -> scale, minimum
    """One group in float64, weight by weight: of all minima on the way the one with the least norm."""
    half = lambda value: float(np.float16(value))  # noqa: E731
    top, n = 2**bits - 1, len(group)
    scale, minimum = half((max(group) - min(group)) / top), half(min(group))
    best, least = minimum, float("inf")
    for _ in range(iterations + 1):
        codes = [min(top, max(0, round((w - minimum) / scale))) for w in group]
        errors = [(w - minimum) / scale - code for w, code in zip(group, codes, strict=True)]
        if (norm := sum(abs(e) ** p for e in errors)) < least:
            best, least = minimum, norm
        kept = []
        for w, code, e in zip(group, codes, errors, strict=True):
            large = max(0.0, abs(e) - abs(e) ** (p - 1) / beta) if e else 0.0
            kept.append(w - scale * (code + (large if e > 0 else -large)))
        minimum, beta = half(sum(kept) / n), beta * growth
    return scale, best


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("group", [8, 24, None])
def test_minima_are_those_of_plain_loops(bits, group):
    weights = drawn(bits)
    found = hqq(weights, Grid(bits, group))
    size, same = group or 48, 0
    for row in range(3):
        for g in range(48 // size):
            part = [float(w) for w in weights[row, g * size : (g + 1) * size]]
            scale, minimum = slow_minimum(part, bits)
            assert found.scales[row, g] == scale
            norms = [sum(min(abs(w - m - scale * c) for c in range(2**bits)) ** 0.7 for w in part)
                     for m in (minimum, float(found.minima[row, g]))]  # fmt: skip
            assert norms[1] == pytest.approx(norms[0], rel=0.02)  # float32 may round one code the other way, and go on from there
            same += found.minima[row, g] == minimum
    assert same >= 0.8 * found.minima.size


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(BITS), st.sampled_from([4, 16, 48]), st.integers(0, 2**32 - 1))
def test_no_group_has_a_larger_norm_than_rounding_to_nearest_leaves(bits, group, seed):
    weights, grid = drawn(seed), Grid(bits, group)
    ours, nearest = (p_norms(weights, method(weights, grid).dense(), group) for method in (hqq, round_to_nearest))
    assert (ours <= nearest * (1 + 1e-4) + 1e-6).all()


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_errors_fall_in_squares_too(bits):
    """On normal weights, all in all, by 5% at least. (At 8 bits a step is about what float16 makes of a minimum.)"""
    weights = np.random.default_rng(9).standard_normal((64, 512)).astype(np.float32)
    ours, nearest = (np.square(weights - method(weights, Grid(bits)).dense()).sum() for method in (hqq, round_to_nearest))
    assert ours < 0.95 * nearest


@pytest.mark.parametrize("unit", [2.0**-9, 2.0**10])
def test_codes_do_not_depend_on_the_unit(unit):
    weights = drawn(2)
    first, second = hqq(weights, Grid(3, 16)), hqq(weights * np.float32(unit), Grid(3, 16))
    assert (first.codes == second.codes).all()
    assert (first.minima * np.float32(unit) == second.minima).all()


def test_equal_weights_and_zeros_are_exact():
    weights = np.repeat(np.float32([[0.5], [0.0], [-3.0]]), 64, axis=1)
    assert (hqq(weights, Grid(2)).dense() == weights).all()


def test_shrinkage_forgives_what_is_large():
    """p = 1 is soft thresholding; below it the large loses less than the small, and 0 stays 0."""
    r = np.float32([-3, -0.05, 0, 0.05, 1, 3])
    assert shrink(r, 2.0, 1.0).tolist() == [-2.5, 0, 0, 0, 0.5, 2.5]
    lost = r - shrink(r, 10.0, 0.7)
    assert lost[2] == 0 and lost[3] == r[3] and lost[5] < lost[4] < 0.1 * r[5]


@pytest.mark.parametrize(
    ("weights", "grid", "said"),
    [
        (np.ones((2, 64)), Grid(4, symmetric=True), "asymmetric grid, found a symmetric one"),
        (np.full((2, 64), np.nan), Grid(4), "128 of 128 NaN or infinite"),
        (np.ones((2, 100)), Grid(4), "36 are left over"),
        (np.ones((0, 64)), Grid(4), "at least 1 weight"),
    ],
)
def test_what_cannot_be_quantized_is_said(weights, grid, said):
    with pytest.raises(MiniLLMError, match=said):
        hqq(weights, grid)
