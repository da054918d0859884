"""Codebook types: the four bits of a weight number an entry of a table, and the table is not evenly spaced.

Weights crowd around zero. Even steps, as in Q4_0, spend as many of the sixteen codes on the rare large weights as on the many
small ones; a table puts its entries where the weights are. The value is still a scale times an integer, so a kernel looks the
integer up and goes on as with any other type:

    w = d · table[code]      IQ4_NL   table: sixteen values of -127 … 113, fitted by llama.cpp to trained weights, d: float16
                             MXFP4    table: the floats of 1 sign, 2 exponent, 1 mantissa bit (quantization/fp4.py);
                                      d: a power of two, one byte

Layouts and tables: ggml's quants (`ggml-common.h`, `ggml-quants.c`); MXFP4: OCP Microscaling Formats 1.0 (2023), 5.3.
"""

import numpy as np

from minillm.formats.measures import beside, quadratic, relative_size
from minillm.formats.packing import Importance, Parts, half, pack_planes, planes, to_half
from minillm.formats.scale_search import MORE_LEVELS, best_scale, keep_better, peak, reciprocal
from minillm.quantization.fp4 import E2M1, e8m0, encode_e2m1

IQ4_NL = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)
NIBBLES = (0, 4)  # byte j of 16 holds weight j in its low four bits and weight j + 16 in its high ones


def iq4_nl(blocks: np.ndarray) -> Parts:
    """| d: 2 | code: 16 bytes, as in Q4_0 |   w = d · table[code]"""
    return IQ4_NL[planes(blocks[:, 2:], 16, NIBBLES, 15)], half(blocks[:, 0:2]), None


def mxfp4(blocks: np.ndarray) -> Parts:
    """| e: 1 | code: 16 bytes, as in Q4_0 |   w = 2^(e - 127) · float of the code = 2^(e - 128) · its double"""
    return E2M1[planes(blocks[:, 1:], 16, NIBBLES, 15)], power(blocks[:, 0:1]), None


def power(exponent: np.ndarray) -> np.ndarray:  # (...) uint8 -> (...) float32
    """Decode half of an E8M0 scale, 2^(exponent - 128). Its code for NaN, 255, is 2^127 to ggml, and here."""
    return np.ldexp(np.float32(1), exponent.astype(np.int32) - 128)


def pack_iq4_nl(rows: np.ndarray, importance: Importance = None) -> np.ndarray:  # (n, columns) float32 -> (blocks, 18) uint8
    """Encode IQ4_NL: the scale is searched for, as in the K types."""
    blocks = rows.reshape(-1, 32)
    weight = quadratic(relative_size(blocks), beside(importance, len(rows), 32))
    x = blocks.T.copy()
    scale = search_table(x, weight.T.copy(), IQ4_NL)
    code = nearest_code(x, reciprocal(scale), IQ4_NL).astype(np.uint8)
    return np.concatenate([to_half(scale), pack_planes(code.T.copy(), 16, NIBBLES)], axis=1)


def pack_mxfp4(rows: np.ndarray, importance: Importance = None) -> np.ndarray:  # (n, columns) float32 -> (blocks, 17) uint8
    """Encode MXFP4: the exponent of the largest weight becomes that of the largest float, 4 to 6; importance changes nothing.

    A weight in the middle between two floats takes the smaller. What lies above 6 becomes 6, up to a quarter less.
    """
    blocks = rows.reshape(-1, 32)
    exponent = e8m0(np.abs(blocks).max(axis=1))
    code = encode_e2m1(blocks, 2 * power(exponent))
    return np.concatenate([exponent[:, None], pack_planes(code, 16, NIBBLES)], axis=1)


def search_table(x: np.ndarray, weight: np.ndarray, table: np.ndarray) -> np.ndarray:  # (weights, n), (weights, n) -> (n,)
    """Find the scale, a float16, for a table of rising integers: `scale_search.search_scale`, at both ends of the table."""
    inverse = reciprocal(peak(x))
    best = np.full_like(inverse, np.inf), np.zeros_like(inverse)
    for end in (table[0], table[-1]):
        for level in MORE_LEVELS:
            value = table[nearest_code(x, inverse * np.float32(end * (1 + level / 16)), table)]
            keep_better(best, best_scale(x, value, weight, last=True))
    return best[1]


def nearest_code(x: np.ndarray, inverse: np.ndarray, table: np.ndarray) -> np.ndarray:  # (weights, n), (n,) -> (weights, n)
    """Number the entries of a table that are nearest to x / scale; in the middle between two the upper one.

    The middles are multiples of 1/2. So it is enough to know between which of these x / scale lies, and a second table tells.
    """
    steps = np.arange(2 * int(table[0]), 2 * int(table[-1]) + 1)  # in halves
    middles = table[1:].astype(int) + table[:-1]
    codes = np.searchsorted(middles, steps, side="right")
    at = x * (2 * inverse)
    at -= np.float32(steps[0])  # above zero, so that cutting off digits rounds down; what is outside takes the end
    return codes.take(at.astype(np.intp), mode="clip")
