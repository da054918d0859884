"""Rows of a quantized KV cache: every byte equals that of a slow oracle, and no number is further off than half a step."""

import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kv_help import f32, half

from minillm.errors import MiniLLMError
from minillm.quantization.kv_formats import FORMATS

POSITIVE = [(8 + c % 8) * 2.0 ** (c // 8 - 10) if c >= 8 else c * 2.0**-9 for c in range(128)]
E4M3 = POSITIVE + [-x for x in POSITIVE]


def nearest(value, levels):  # index of the nearest level; of two equally near ones, all indices
    best = min(abs(value - level) for level in levels)
    return {i for i, level in enumerate(levels) if abs(value - level) == best}


def hadamard_by_bits(x):
    """H[i, j] = (-1)^(bits that i and j have in common) / √d"""
    d = len(x)
    return [sum(x[j] * (-1) ** (i & j).bit_count() for j in range(d)) / math.sqrt(d) for i in range(d)]


def scale_and_codes(name, x):  # [float] -> stored numbers, and for each x the codes that may stand for it
    """Everything in Python's float64, from float32 quotients where the definition says so."""
    if name == "int8":
        scale = half(f32(max(map(abs, x)) / 127))
        return [scale], [{0} if scale == 0 else {c % 256 for c in range(-127, 128) if near(v, scale * c, scale, 127)} for v in x]
    if name == "fp8":
        scale = half(f32(max(map(abs, x)) / 448))
        finite = [level for c, level in enumerate(E4M3) if c & 127 != 127]
        numbers = [c for c in range(256) if c & 127 != 127]
        return [scale], [{0, 128} if scale == 0 else {numbers[i] for i in nearest(v / scale, finite)} for v in x]
    scale, minimum = half(f32((max(x) - min(x)) / 15)), half(min(x))
    return [scale, minimum], [
        {0} if scale == 0 else {c for c in range(16) if near(v - minimum, scale * c, scale, 15, low=0)} for v in x
    ]


def near(value, level, scale, top, low=None):
    """Whether the level is a nearest one: within half a step (and float32's rounding), or the end of the grid."""
    low = -top if low is None else low
    code, wanted = level / scale, value / scale
    clipped = min(max(wanted, low), top)
    return abs(code - clipped) <= 0.5 + 1e-5 * max(1, abs(wanted))


def check(name, x):
    """x: (d,) float32."""
    rows = FORMATS[name].encode(x[None, None])[0, 0]
    values = [float(v) for v in x]
    if name == "rot4":
        values = [float(v) for v in (x[None, None] @ np.array([hadamard_by_bits(e) for e in np.eye(len(x))], np.float32))[0, 0]]
        np.testing.assert_allclose(values, hadamard_by_bits([float(v) for v in x]), atol=1e-5 * np.abs(x).max())
    numbers, allowed = scale_and_codes(name, values)
    stored = struct.unpack(f"<{len(numbers)}e", bytes(rows[-2 * len(numbers) :]))
    assert stored == tuple(numbers)
    packed = [int(b) for b in rows[: -2 * len(numbers)]]
    codes = packed if name in ("int8", "fp8") else [b & 15 for b in packed] + [b >> 4 for b in packed]
    assert len(codes) == len(x)
    for code, choices in zip(codes, allowed, strict=True):
        assert code in choices
    decoded = FORMATS[name].decode(rows)
    assert decoded.dtype == np.float32
    for code, found in zip(codes, decoded, strict=True):
        if name == "int8":
            expected = numbers[0] * (code - 256 * (code > 127))
        elif name == "fp8":
            expected = numbers[0] * E4M3[code]
        else:
            expected = numbers[0] * code + numbers[1]
        assert found == f32(expected)


ROWS = {
    "plain": np.random.default_rng(0).standard_normal(16),
    "zeros": np.zeros(8),
    "equal": np.full(8, -3.25),
    "one outlier of 1e4": np.array([0.01, -0.02, 1e4, 0.5, -0.5, 0, 1, 2.0]),
    "two's complement edges": np.array([-127, -128, 127, 126.5, 0.5, -0.5, 1.5, -1.5]),
    "too small for float16": np.full(4, 1e-9) * [1, -1, 2, 3],
    "subnormal scale": np.array([3e-6, -2e-6, 1e-6, 0]),
    "all negative": np.array([-5.0, -6.0, -7.0, -5.5]),
    "a head of two": np.array([1.0, -1.0]),
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("row", ROWS)
def test_a_row_equals_the_oracle(name, row):
    check(name, ROWS[row].astype(np.float32))


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(list(FORMATS)), power=st.integers(1, 5), scale=st.integers(-12, 12), seed=st.integers(0, 2**32 - 1))
def test_any_row_equals_the_oracle(name, power, scale, seed):
    check(name, (np.random.default_rng(seed).standard_normal(2**power) * 2.0**scale).astype(np.float32))


@pytest.mark.parametrize("name", ["int8", "fp8", "int4"])
@pytest.mark.parametrize("d", [2, 6, 10, 24, 80])
def test_heads_need_no_power_of_two(name, d):
    check(name, np.random.default_rng(d).standard_normal(d).astype(np.float32))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("n", "heads"), [(0, 2), (1, 1), (1, 5), (7, 3)])
def test_a_row_depends_on_its_own_token_and_head_alone(name, n, heads):
    x = np.random.default_rng(0).standard_normal((n, heads, 32)).astype(np.float32)
    rows = FORMATS[name].encode(x)
    assert rows.dtype == np.uint8 and rows.shape == (n, heads, FORMATS[name].width(32))
    for i in range(n):
        np.testing.assert_array_equal(FORMATS[name].encode(x[i : i + 1]), rows[i : i + 1])
    np.testing.assert_array_equal(FORMATS[name].decode(rows[:, ::-1]), FORMATS[name].decode(rows)[:, ::-1])


@pytest.mark.parametrize("d", [16, 64, 128])
def test_bytes_of_a_row_are_the_stated_bits(d):
    stated = {"int8": 8 + 16 / d, "fp8": 8 + 16 / d, "int4": 4 + 32 / d, "rot4": 4 + 32 / d}
    rows = {name: made.encode(np.ones((3, 2, d), np.float32)) for name, made in FORMATS.items()}
    assert {name: 8 * row.nbytes / (3 * 2 * d) for name, row in rows.items()} == stated


def test_kernels_know_formats_by_numbers_that_never_change():
    assert {name: made.number for name, made in FORMATS.items()} == {"int8": 1, "int4": 2, "fp8": 3, "rot4": 4}


def test_scores_and_outputs_are_the_same_in_turned_axes():
    rng, made = np.random.default_rng(0), FORMATS["rot4"]
    q, k = rng.standard_normal((2, 5, 3, 64)).astype(np.float32)
    np.testing.assert_allclose((made.rotate(q) * made.rotate(k)).sum(-1), (q * k).sum(-1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(made.rotate(made.rotate(q)), q, atol=1e-5)
    assert FORMATS["int4"].rotate(q) is q


def test_an_outlier_costs_less_once_it_is_spread():
    x = np.random.default_rng(0).standard_normal((64, 2, 64)).astype(np.float32)
    x[:, :, 5] += 30
    plain = np.square(FORMATS["int4"].decode(FORMATS["int4"].encode(x)) - x).mean()
    made = FORMATS["rot4"]
    turned = np.square(made.rotate(made.decode(made.encode(x))) - x).mean()
    assert turned < plain / 5


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused(name, bad):
    x = np.ones((2, 3, 8), np.float32)
    x[1, 2, 3] = bad
    with pytest.raises(MiniLLMError, match=f"{name} takes finite numbers; found 1 of 48 NaN or infinite"):
        FORMATS[name].encode(x)


def test_numbers_beyond_a_float16_scale_are_refused():
    with pytest.raises(MiniLLMError, match="float16, at most 65,504"):
        FORMATS["int4"].encode(np.full((1, 1, 4), -1e6, np.float32))
    with pytest.raises(MiniLLMError, match="float16, at most 65,504"):
        FORMATS["int8"].encode(np.full((1, 1, 4), 1e8, np.float32))


@pytest.mark.parametrize(
    ("name", "d", "says"),
    [("int4", 7, "even size, found 7"), ("rot4", 3, "found 3"), ("rot4", 24, "power of two .* found 24"), ("int8", 0, "found 0")],
)
def test_heads_that_a_format_does_not_divide_are_refused(name, d, says):
    with pytest.raises(MiniLLMError, match=says):
        FORMATS[name].width(d)
    with pytest.raises(MiniLLMError, match=says):
        FORMATS[name].encode(np.ones((1, 1, d), np.float32))
