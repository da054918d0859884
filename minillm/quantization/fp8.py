"""FP8: a float of eight bits, e4m3 or e5m2, as the tensor cores of Hopper and Ada multiply it.

One bit of sign, four of exponent, three of mantissa. Between one power of two and the next lie eight numbers, evenly
spaced; the next power of two, and the spacing doubles. So the error is relative, at most 1 part in 16, from the largest
number down to the smallest normal one. Below, the spacing stays (subnormals), and small numbers fade into 0:

    S EEEE MMM     E > 0:  ± (8 + M) · 2^(E-10)      E = 0:  ± M · 2^-9      1111 111: NaN

    0 ── 2^-9 ······ 2^-6 ┬┬┬┬┬┬┬┬ 2^-5 ┬─┬─┬─┬─┬─┬─┬─┬ 2^-4      ...      256 ┬ 288 ┬ ... ┬ 416 ┬ 448
       8 subnormal steps      8 steps      8 steps, twice as wide               the top: no infinity, one NaN

A scale, per tensor or per block, puts the largest number at 448. Then numbers down to 1/28,672 of it keep four digits (of
two), and those under 1/458,752 of it become 0. Signs aside, codes are in the order of their numbers: code + 1 is the next
one up, since the mantissa runs over into the exponent.

e5m2 gives a bit of the mantissa to the exponent: ± (4 + M) · 2^(E-17), four steps from one power of two to the next, from 2^-16
to 57,344; it is the upper half of a float16, infinity and NaN included. Errors are up to 1 part in 8, and a scale hardly matters.

Micikevicius et al. 2022, arXiv:2209.05433. (PyTorch and ml_dtypes call e4m3 float8_e4m3fn: "finite, NaN".)
"""

import numpy as np

from minillm.errors import MiniLLMError

LARGEST = 448.0  # (8 + 6) · 2^5; 15 in place of 14 would be the code of NaN
LOWEST_EXPONENT = -6  # of a normal number; subnormals keep its spacing
E5M2_LARGEST = 57344.0  # (4 + 3) · 2^13; codes above are infinity and NaN
E5M2_LOWEST_EXPONENT = -14


def steps(  # (...) -> (...), (...) int
    x: np.ndarray, mantissa: int = 3, lowest: int = LOWEST_EXPONENT, largest: float = LARGEST
) -> tuple[np.ndarray, np.ndarray]:
    """|x| on the grid, as a · 2^(e - mantissa): a whole number of steps, and the exponent e that sets the step.

    Round to nearest, ties to the even a; at most `largest`. (e4m3: 8 ≤ a ≤ 16 where x is normal: 16 is the next power of two.)
    """
    size = np.minimum(np.abs(x), np.float32(largest))
    _, exponent = np.frexp(np.maximum(size, np.float32(2.0**lowest)))  # f · 2^exponent with 1/2 ≤ f < 1
    e = exponent - 1
    return np.rint(np.ldexp(size, mantissa - e)), e  # dividing by a power of two loses nothing


def round_e4m3(x: np.ndarray) -> np.ndarray:  # (...) float32 -> (...) float32
    """Round to the nearest number on the e4m3 grid. Beyond ±448, and for infinity, ±448; NaN stays NaN.

    To saturate is what the GPU's conversion does (PTX: cvt.rn.satfinite), and so FlashAttention-3. ml_dtypes and PyTorch on
    the CPU give NaN beyond 464, half a step above. Scaled inputs never get there.
    """
    x = np.asarray(x, np.float32)
    a, e = steps(x)
    return np.copysign(np.ldexp(a, e - 3), x)


def encode_e4m3(x: np.ndarray) -> np.ndarray:  # (...) float32 -> (...) uint8
    """Encode round_e4m3(x) as bytes. NaN is 0x7f or 0xff, by its sign."""
    x = np.asarray(x, np.float32)
    a, e = steps(x)
    # Normal: E = e + 7 and M = a - 8, so 8E + M = 8(e + 6) + a. Subnormal: e = -6, and 8E + M = M = a. One formula, and
    # where a was rounded up to 16 it carries into the exponent by itself.
    code = np.where(np.isnan(x), 0x7F, 8 * (e - LOWEST_EXPONENT) + np.nan_to_num(a))
    return (code + 128 * np.signbit(x)).astype(np.uint8)


def decode_e4m3(codes: np.ndarray) -> np.ndarray:  # (...) uint8 -> (...) float32
    """Decode bytes to numbers, by the formula above."""
    codes = np.asarray(codes, np.uint8).astype(np.int32)
    exponent, mantissa = codes >> 3 & 15, codes & 7
    value = np.where(exponent > 0, np.ldexp(np.float32(8) + mantissa, exponent - 10), np.ldexp(np.float32(1), -9) * mantissa)
    value = np.where(codes & 127 == 127, np.nan, value)
    return np.where(codes & 128, -value, value).astype(np.float32)


def round_e5m2(x: np.ndarray) -> np.ndarray:  # (...) float32 -> (...) float32
    """Round to the nearest number on the e5m2 grid. Beyond ±57,344, and for infinity, ±57,344; NaN stays NaN."""
    x = np.asarray(x, np.float32)
    a, e = steps(x, 2, E5M2_LOWEST_EXPONENT, E5M2_LARGEST)
    return np.copysign(np.ldexp(a, e - 2), x)


def encode_e5m2(x: np.ndarray) -> np.ndarray:  # (...) float32 -> (...) uint8
    """Encode round_e5m2(x) as bytes: the upper bytes of float16, which holds every number of the grid. NaN is 0x7f or 0xff."""
    x = np.asarray(x, np.float32)
    code = (round_e5m2(x).astype(np.float16).view(np.uint16) >> 8).astype(np.uint8)
    return np.where(np.isnan(x), 0x7F + 128 * np.signbit(x), code).astype(np.uint8)


def decode_e5m2(codes: np.ndarray) -> np.ndarray:  # (...) uint8 -> (...) float32
    """Decode bytes to numbers: a float16 whose lower byte is 0. Codes of infinity (0x7c, 0xfc) are infinite."""
    return (np.asarray(codes, np.uint8).astype(np.uint16) << 8).view(np.float16).astype(np.float32)


def round_by_bits(x: np.ndarray, mantissa: int) -> np.ndarray:  # (...) float32 -> (...) float32
    """Round to so many bits of mantissa by arithmetic on the bits of float32, which has 23: what hardware does, no scale found.

    To nearest, ties to even, in three integer operations: adding just under half of the last kept bit carries into it, and on
    into the exponent, where it must; one more where that bit is 1, so that a tie goes to the even one; then the rest is cut off.
    The exponent has all its range here: what FP8 saturates or makes subnormal is not. Infinity and NaN stay.
    MiniLLMError for a mantissa that is not 1 to 22 bits.
    """
    if not 1 <= mantissa <= 22:
        raise MiniLLMError(f"a mantissa is rounded to 1 to 22 bits, found {mantissa}.")
    x = np.asarray(x, np.float32)
    bits, drop = x.view(np.uint32), np.uint32(23 - mantissa)
    half = (np.uint32(1) << (drop - np.uint32(1))) - np.uint32(1)
    rounded = (bits + half + (bits >> drop & np.uint32(1))) >> drop << drop
    return np.where(np.isfinite(x), rounded.view(np.float32), x)


def scale_of(  # -> float32, one for each index not in axis
    x: np.ndarray, axis: tuple[int, ...] | int | None = None, largest: float = LARGEST
) -> np.ndarray:
    """Compute the divisor of x that makes its largest magnitude 448, or another. Raises MiniLLMError for NaN and infinity.

    All zeros, or so small that the scale itself would underflow, give the smallest normal float32: 0 / scale is then 0.
    """
    top = np.max(np.abs(x), axis=axis, initial=0)
    if not np.isfinite(top).all():
        bad = (~np.isfinite(x)).sum()
        raise MiniLLMError(f"fp8: no scale puts NaN or infinity into FP8's range; found {bad:,} of {x.size:,} values.")
    return np.maximum(top / largest, np.finfo(np.float32).tiny).astype(np.float32)
