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
from minillm.formats.packing import NIBBLES, Importance, Parts, around, half, pack_planes, planes, to_half
from minillm.formats.scale_search import (
    MORE_LEVELS,
    OUTWEIGHS,
    best_scale,
    dot,
    error_of,
    keep_better,
    outweighed,
    peak,
    ratio,
    reciprocal,
)
from minillm.quantization.fp4 import E2M1, e8m0, encode_e2m1

IQ4_NL = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)


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
    if (at := outweighed(x, OUTWEIGHS)).size:
        of_columns = np.ones_like(x[:, at]) if importance is None else np.tile(importance.reshape(-1, 32), (len(rows), 1))[at].T
        used = of_columns[np.abs(x[:, at]).argmax(axis=0), np.arange(at.size)] > 0  # else its weight is kept all the same
        scale[at[used]] = scale_for_a_peak(x[:, at[used]], of_columns[:, used], importance is None)
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


def scale_for_a_peak(x: np.ndarray, of_columns: np.ndarray, alone: bool) -> np.ndarray:  # (weights, n) twice -> (n,)
    """Find a float16 scale of IQ4_NL for groups with one weight that outweighs all others. of_columns: importance, or ones.

    Two measures want different scales there. The small weights make up the plain error: they share the entries next to zero, so
    the smaller the scale, the better. In ggml's measure the peak counts most, and with it how luckily its scale rounds to
    float16; the next entry of the table is another draw. So of all scales near ggml's (`quantize_row_iq4_nl_impl`) take the one
    with the least error in its measure, among those that in the plain one lose no more than its choice.
    """
    table, unit = IQ4_NL, np.ldexp(np.float32(1), np.frexp(peak(x))[1])  # a power of two: it changes no rounding
    near_one = x / unit
    square = near_one * near_one
    weight = square if alone else of_columns * np.sqrt(2 * np.mean(square, axis=0) + square)  # ggml's
    peaks = reciprocal(peak(near_one))
    theirs, most, scales = np.zeros_like(peaks), np.zeros_like(peaks), []
    for level in (-int(table[0]), *range(int(table[0]) - 7, int(table[0]) + 8)):
        value = table[nearest_code(near_one, peaks * np.float32(level), table)].astype(np.float32)
        fit, size = dot(weight * value, near_one), dot(weight * value, value)
        scales.append(ratio(fit, size))
        better = fit * fit > most * size  # it takes more off the error
        theirs, most = np.where(better, scales[-1], theirs), np.where(better, scales[-1] * fit, most)
    tried = [number for scale in (theirs, *scales) for number in around(scale * unit)]
    lost, lost_plain = np.array([[error_with(x, scale, w, table) for scale in tried] for w in (weight, of_columns)])
    allowed = np.where(lost_plain <= lost_plain[0], lost, np.inf)
    return np.array(tried)[np.argmin(allowed, axis=0), np.arange(x.shape[1])]


def error_with(x: np.ndarray, scale: np.ndarray, weight: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Sum the squared errors over each group that is coded with a scale; of an infinite one that is infinity, or NaN."""
    with np.errstate(invalid="ignore", over="ignore"):
        return error_of(x, scale * table[nearest_code(x, reciprocal(scale), table)].astype(np.float32), weight)


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
