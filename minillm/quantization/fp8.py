"""FP8: a float of eight bits, e4m3, as the tensor cores of Hopper and Ada multiply it.

One bit of sign, four of exponent, three of mantissa. Between one power of two and the next lie eight numbers, evenly
spaced; the next power of two, and the spacing doubles. So the error is relative, at most 1 part in 16, from the largest
number down to the smallest normal one. Below, the spacing stays (subnormals), and small numbers fade into 0:

    S EEEE MMM     E > 0:  ± (8 + M) · 2^(E-10)      E = 0:  ± M · 2^-9      1111 111: NaN

    0 ── 2^-9 ······ 2^-6 ┬┬┬┬┬┬┬┬ 2^-5 ┬─┬─┬─┬─┬─┬─┬─┬ 2^-4      ...      256 ┬ 288 ┬ ... ┬ 416 ┬ 448
       8 subnormal steps      8 steps      8 steps, twice as wide               the top: no infinity, one NaN

A scale, per tensor or per block, puts the largest number at 448. Then numbers down to 1/28,672 of it keep four digits (of
two), and those under 1/458,752 of it become 0. Signs aside, codes are in the order of their numbers: code + 1 is the next
one up, since the mantissa runs over into the exponent.

Micikevicius et al. 2022, arXiv:2209.05433. (PyTorch and ml_dtypes call this one float8_e4m3fn: "finite, NaN".)
"""

import numpy as np

from minillm.errors import MiniLLMError

LARGEST = 448.0  # (8 + 6) · 2^5; 15 in place of 14 would be the code of NaN
LOWEST_EXPONENT = -6  # of a normal number; subnormals keep its spacing


def steps(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # (...) -> (...), (...) int
    """|x| on the grid, as a · 2^(e - 3): a whole number of steps, and the exponent e that sets the step.

    Round to nearest, ties to the even a; at most 448. (8 ≤ a ≤ 16 where x is normal: 16 is the next power of two.)
    """
    size = np.minimum(np.abs(x), np.float32(LARGEST))
    _, exponent = np.frexp(np.maximum(size, np.float32(2.0**LOWEST_EXPONENT)))  # f · 2^exponent with 1/2 ≤ f < 1
    e = exponent - 1
    return np.rint(np.ldexp(size, 3 - e)), e  # dividing by a power of two loses nothing


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


def scale_of(x: np.ndarray, axis: tuple[int, ...] | int | None = None) -> np.ndarray:  # float32, one for each index not in axis
    """Compute the divisor of x that makes its largest magnitude 448. Raises MiniLLMError for NaN and infinity.

    All zeros, or so small that the scale itself would underflow, give the smallest normal float32: 0 / scale is then 0.
    """
    top = np.max(np.abs(x), axis=axis, initial=0)
    if not np.isfinite(top).all():
        bad = (~np.isfinite(x)).sum()
        raise MiniLLMError(f"fp8: no scale puts NaN or infinity into e4m3's range; found {bad:,} of {x.size:,} values.")
    return np.maximum(top / LARGEST, np.finfo(np.float32).tiny).astype(np.float32)
