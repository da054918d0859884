"""The K types: 256 weights share two 16-bit numbers, and every 16 or 32 of them a small scale of their own.

Scales cost bits too. A K block quantizes the scales themselves: groups have integer scales of 4 to 8 bits, and one 16-bit
number d tells what a unit of them is worth (and dmin for the minima). So a group adapts to its weights almost for free:

    w = (d · scale[group]) · q - (dmin · min[group])

Everything below is the same sum; what differs is how many bits q has and where they lie. Each function takes blocks apart
into `Factors`; `multiplied` makes the scales and minima of the groups, and `blocks.combine` adds up. In the pictures `x..y`
counts weights. Layouts: ggml's quants (`ggml-common.h`, `ggml-quants.c`).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from minillm.formats.packing import Parts, half, planes, six_bit_scales


class Factors(NamedTuple):
    """Blocks taken apart, nothing multiplied yet: all that a file says, as integers and two numbers a block."""

    q: np.ndarray  # (n, 256) ints
    d: np.ndarray  # (n, 1) float32, from float16
    scales: np.ndarray  # (n, groups) ints
    dmin: np.ndarray | None = None  # (n, 1) float32
    minima: np.ndarray | None = None  # (n, groups) ints


def multiplied(take_apart: Callable[[np.ndarray], Factors]) -> Callable[[np.ndarray], Parts]:
    """Turn a function that gives Factors into one that gives Parts: d · scale is exact in float32, 11 bits times at most 8."""

    def parts(blocks: np.ndarray) -> Parts:
        q, d, scales, dmin, minima = take_apart(blocks)
        minimum = None if dmin is None or minima is None else dmin * minima.astype(np.float32)
        return q, d * scales.astype(np.float32), minimum

    return parts


def q2_k_factors(blocks: np.ndarray) -> Factors:
    """| scale, min: 16 × (4 low, 4 high bits) | q: 64 bytes, 2 bits each | d: 2 | dmin: 2 |

    32 bytes of q hold weights 0..31 in bits 0-1, 32..63 in bits 2-3, 64..95, 96..127; the next 32 bytes the rest.
    """
    scales, q, d, dmin = blocks[:, :16], blocks[:, 16:80], half(blocks[:, 80:82]), half(blocks[:, 82:84])
    return Factors(planes(q, 32, (0, 2, 4, 6), 3), d, scales & 15, dmin, scales >> 4)


def q3_k_factors(blocks: np.ndarray) -> Factors:
    """| third bits: 32 | q: 64 bytes, 2 bits each, as in Q2_K | scales: 12, sixteen of 6 bits | d: 2 |

    A third bit of 0 means minus 4, so q runs from -4 to 3. Scales: low 4 bits in bytes 0..7 (low nibbles, then high),
    upper 2 bits in bytes 8..11; all minus 32.
    """
    top, q, scales, d = blocks[:, :32], blocks[:, 32:96], blocks[:, 96:108], half(blocks[:, 108:110])
    low = planes(scales[:, :8], 8, (0, 4), 15)
    high = planes(scales[:, 8:], 4, (0, 2, 4, 6), 3)
    third = planes(top, 32, range(8), 1)
    q = planes(q, 32, (0, 2, 4, 6), 3).astype(np.int8) - ((third ^ 1) << 2).astype(np.int8)
    return Factors(q, d, (low | (high << 4)).astype(np.int8) - 32)


def q4_k_factors(blocks: np.ndarray) -> Factors:
    """| d: 2 | dmin: 2 | scales, minima: 12 | q: 128 bytes, 4 bits each |   32 bytes: weights 0..31 low, 32..63 high"""
    scale, minimum = six_bit_scales(blocks[:, 4:16])
    return Factors(planes(blocks[:, 16:], 32, (0, 4), 15), half(blocks[:, 0:2]), scale, half(blocks[:, 2:4]), minimum)


def q5_k_factors(blocks: np.ndarray) -> Factors:
    """| d: 2 | dmin: 2 | scales, minima: 12 | fifth bits: 32 | q: 128 bytes, as in Q4_K |

    Bit g of the 32 bytes tops the weights of group g, one byte a weight.
    """
    scale, minimum = six_bit_scales(blocks[:, 4:16])
    q = planes(blocks[:, 48:], 32, (0, 4), 15) | (planes(blocks[:, 16:48], 32, range(8), 1) << 4)
    return Factors(q, half(blocks[:, 0:2]), scale, half(blocks[:, 2:4]), minimum)


def q6_k_factors(blocks: np.ndarray) -> Factors:
    """| q low: 128 bytes, 4 bits | q high: 64 bytes, 2 bits | scales: 16 signed bytes | d: 2 |   w = d · scale · (q - 32)

    64 low bytes: weights 0..63 in the low nibbles, 64..127 in the high ones; 32 high bytes: 2 bits of 0..31, 32..63, ...
    """
    low, high = planes(blocks[:, :128], 64, (0, 4), 15), planes(blocks[:, 128:192], 32, (0, 2, 4, 6), 3)
    return Factors((low | (high << 4)).astype(np.int8) - 32, half(blocks[:, 208:210]), blocks[:, 192:208].view(np.int8))


FACTORS = {
    "Q2_K": q2_k_factors, "Q3_K": q3_k_factors, "Q4_K": q4_k_factors, "Q5_K": q5_k_factors, "Q6_K": q6_k_factors
}  # fmt: skip
q2_k, q3_k, q4_k, q5_k, q6_k = map(multiplied, FACTORS.values())
