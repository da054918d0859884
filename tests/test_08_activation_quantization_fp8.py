"""FP8 beside e4m3: e5m2 against ml_dtypes, code by code and draw by draw; rounding by bits against loops of float64."""

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from minillm.errors import MiniLLMError
from minillm.quantization.fp8 import (
    E5M2_LARGEST,
    LARGEST,
    decode_e5m2,
    encode_e5m2,
    round_by_bits,
    round_e4m3,
    round_e5m2,
    scale_of,
)

E5M2 = ml_dtypes.float8_e5m2
CODES = np.arange(256, dtype=np.uint8)
NUMBERS = CODES.view(E5M2).astype(np.float32)  # what each code stands for, says ml_dtypes
FINITE = np.isfinite(NUMBERS)
floats = st.floats(width=32, allow_nan=False)
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


def same_bits(a, b):
    return np.array_equal(np.float32(a).view(np.int32), np.float32(b).view(np.int32))


def theirs(x):
    return np.clip(np.float32(x), -57344, 57344).astype(E5M2).astype(np.float32)


def test_all_256_codes_stand_for_the_numbers_that_ml_dtypes_says_and_come_back():
    number = ~np.isnan(NUMBERS)
    assert same_bits(decode_e5m2(CODES)[number], NUMBERS[number]) and np.isnan(decode_e5m2(CODES)[~number]).all()
    assert np.array_equal(encode_e5m2(NUMBERS[FINITE]), CODES[FINITE])
    assert same_bits(round_e5m2(NUMBERS[FINITE]), NUMBERS[FINITE]), "a number on the grid stays"
    assert CODES[~number].tolist() == [0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF]


def test_ties_go_to_the_even_code_and_a_hair_beside_them_does_not():
    grid = np.sort(NUMBERS[FINITE])
    middle = ((grid[1:].astype(np.float64) + grid[:-1]) / 2).astype(np.float32)
    for x in (middle, np.nextafter(middle, np.float32(np.inf)), np.nextafter(middle, np.float32(-np.inf))):
        assert same_bits(round_e5m2(x), theirs(x)) and np.array_equal(encode_e5m2(x), x.astype(E5M2).view(np.uint8))


@given(arrays(np.float32, 20, elements=floats), st.integers(-20, 18))
def test_any_float_rounds_as_ml_dtypes_rounds_it(x, exponent):
    x = np.concatenate([x, np.ldexp(np.frexp(x)[0], exponent).astype(np.float32)])  # half of them in range
    assert same_bits(round_e5m2(x), theirs(x))
    assert same_bits(decode_e5m2(encode_e5m2(x)), theirs(x))


def test_beyond_the_largest_number_it_saturates_and_nan_stays_nan():
    big = np.float32([57344, 61439, 61440, 1e30, np.inf])
    assert round_e5m2(big).tolist() == [57344.0] * 5 and round_e5m2(-big).tolist() == [-57344.0] * 5
    assert encode_e5m2(big).tolist() == [0x7B] * 5 and encode_e5m2(-big).tolist() == [0xFB] * 5
    assert np.isnan(round_e5m2(np.nan)) and encode_e5m2(np.float32(np.nan)) & 127 == 127


def slow_round(value, mantissa):  # float64, of a normal number
    exponent = math.floor(math.log2(abs(value))) if value else 0
    exponent += (abs(value) >= 2.0 ** (exponent + 1)) - (abs(value) < 2.0**exponent)
    step = 2.0 ** (exponent - mantissa)
    return round(value / step) * step  # Python rounds ties to even


@given(arrays(np.float32, 10, elements=st.floats(-(2.0**100), 2.0**100, width=32)), st.integers(1, 22))
def test_bits_round_as_a_division_by_the_step_does(x, mantissa):
    normal = (np.abs(x) >= 2.0**-120) | (x == 0)
    x = np.where(normal, x, np.float32(1.375))
    assert round_by_bits(x, mantissa).tolist() == [slow_round(float(v), mantissa) for v in x]


@given(arrays(np.float32, 30, elements=finite), st.integers(-6, 7))
def test_bits_round_normal_numbers_as_the_formats_do_and_carry_into_the_exponent(x, exponent):
    x = np.ldexp(np.frexp(x)[0], exponent).astype(np.float32)
    for mantissa, rounded, lowest in ((3, round_e4m3, 2.0**-6), (2, round_e5m2, 2.0**-14)):
        normal = x[(np.abs(x) >= lowest) | (x == 0)]
        assert same_bits(round_by_bits(normal, mantissa), rounded(normal))
    assert round_by_bits(np.float32([1.96875, -255]), 3).tolist() == [2, -256]


def test_bits_leave_infinity_nan_and_any_shape_as_they_are():
    odd = np.float32([np.inf, -np.inf, np.nan, -0.0])
    found = round_by_bits(odd, 3)
    assert found[:2].tolist() == [np.inf, -np.inf] and np.isnan(found[2]) and np.signbit(found[3])
    assert round_by_bits(np.float32(1.03), 3).shape == () and round_by_bits(np.ones((2, 3))[:, ::2], 2).shape == (2, 2)
    for mantissa in (0, 23):
        with pytest.raises(MiniLLMError, match=f"1 to 22 bits, found {mantissa}"):
            round_by_bits(odd, mantissa)


def test_a_scale_puts_the_largest_magnitude_at_the_top_of_either_format():
    x = np.float32([[1, -7], [0, 0]])
    assert scale_of(x) == np.float32(7 / LARGEST) and scale_of(x, largest=E5M2_LARGEST) == np.float32(7 / E5M2_LARGEST)
    assert scale_of(x, 1, E5M2_LARGEST).shape == (2,) and np.abs(round_e5m2(x / scale_of(x, largest=E5M2_LARGEST))).max() == 57344
    with pytest.raises(MiniLLMError, match="NaN or infinity into FP8's range; found 1 of 2 values"):
        scale_of(np.float32([1, np.nan]), largest=E5M2_LARGEST)
