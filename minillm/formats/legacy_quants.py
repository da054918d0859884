"""The older block types, both ways: 32 weights, one scale, sometimes a minimum; nothing is searched for.

The largest weight of a block sets the scale, the others take the nearest integer. In the types _0 integers lie on both sides
of zero, so the largest magnitude becomes the lowest of them, -8 of 4 bits: that side has one integer more, and the scale
carries the sign. In the types _1 they count up from the block's minimum.

    _0   d = w[argmax |w|] / -8     q = round(w / d) + 8        _1   d = (max - min) / 15     q = round((w - min) / d)

The result is what ggml's reference quantizer writes, bit for bit: its divisions are multiplications with 1 / d, and a tie goes
up. With importance (what inputs of a column amount to) the scale is searched for after all: `scale_search`.
Layouts and arithmetic: ggml's quants (`ggml-common.h`, `ggml-quants.c`).
"""

import numpy as np

from minillm.formats import measures
from minillm.formats.packing import NIBBLES, Importance, Parts, gather, half, pack_planes, planes, spread, to_half
from minillm.formats.scale_search import nearest, reciprocal, search_scale, search_scale_and_minimum


def q8_0(blocks: np.ndarray) -> Parts:
    """| d: 2 | q: 32 × 8 bits |   signed; w = d · q"""
    return blocks[:, 2:].view(np.int8), half(blocks[:, 0:2]), None


def q4_0(blocks: np.ndarray) -> Parts:
    """Take blocks of Q4_0 apart into signed integers and a scale.

    | d: 2 | q: 16 bytes |   byte j holds weight j in its low four bits and weight j + 16 in its high ones; w = d · (q - 8)

    blocks: (n, 18) uint8. The integers are q - 8, in the order of the weights: (n, 32) int8, from -8 to 7. The scale d is a
    column, (n, 1) float32; `half` makes it of two bytes of each block.
    """
    # BEGIN SOLUTION ex=09.2
    q = planes(blocks[:, 2:], 16, NIBBLES, 15)
    integers = q.view(np.int8) - np.int8(8)
    scale = half(blocks[:, 0:2])
    # END SOLUTION
    return integers, scale, None


def q4_1(blocks: np.ndarray) -> Parts:
    """| d: 2 | m: 2 | q: 16 bytes, as in Q4_0 |   w = d · q + m"""
    return planes(blocks[:, 4:], 16, NIBBLES, 15), half(blocks[:, 0:2]), -half(blocks[:, 2:4])


def q5_0(blocks: np.ndarray) -> Parts:
    """| d: 2 | fifth bits: 4 | q: 16 bytes, as in Q4_0 |   bit j of the four bytes tops weight j; w = d · (q - 16)"""
    q = planes(blocks[:, 6:], 16, NIBBLES, 15) | spread(blocks[:, 2:6]) << 4
    return q.view(np.int8) - np.int8(16), half(blocks[:, 0:2]), None


def q5_1(blocks: np.ndarray) -> Parts:
    """| d: 2 | m: 2 | fifth bits: 4 | q: 16 bytes |   w = d · q + m"""
    q = planes(blocks[:, 8:], 16, NIBBLES, 15) | spread(blocks[:, 4:8]) << 4
    return q, half(blocks[:, 0:2]), -half(blocks[:, 2:4])


def pack_q8_0(rows: np.ndarray, importance: Importance = None) -> np.ndarray:  # (n, columns) float32 -> (blocks, 34) uint8
    """Encode Q8_0: the largest magnitude of a block becomes 127. Eight bits are enough, importance changes nothing."""
    blocks = rows.reshape(-1, 32)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    q = round_half_away(blocks * reciprocal(scale)).astype(np.int8)
    return np.concatenate([to_half(scale), q.view(np.uint8)], axis=1)


def pack_q4_0(rows: np.ndarray, importance: Importance = None) -> np.ndarray:  # (n, columns) float32 -> (blocks, 18) uint8
    """Encode Q4_0: see the picture at `q4_0`."""
    q, scale = signed(rows, 8, importance)
    return np.concatenate([to_half(scale), pack_planes(q, 16, NIBBLES)], axis=1)


def pack_q5_0(rows: np.ndarray, importance: Importance = None) -> np.ndarray:  # (n, columns) float32 -> (blocks, 22) uint8
    """Encode Q5_0."""
    q, scale = signed(rows, 16, importance)
    return np.concatenate([to_half(scale), gather(q >> 4), pack_planes(q & 15, 16, NIBBLES)], axis=1)


def pack_q4_1(rows: np.ndarray, importance: Importance = None) -> np.ndarray:  # (n, columns) float32 -> (blocks, 20) uint8
    """Encode Q4_1."""
    q, scale, lowest = from_minimum(rows, 15, importance)
    return np.concatenate([to_half(scale), to_half(lowest), pack_planes(q, 16, NIBBLES)], axis=1)


def pack_q5_1(rows: np.ndarray, importance: Importance = None) -> np.ndarray:  # (n, columns) float32 -> (blocks, 24) uint8
    """Encode Q5_1."""
    q, scale, lowest = from_minimum(rows, 31, importance)
    return np.concatenate([to_half(scale), to_half(lowest), gather(q >> 4), pack_planes(q & 15, 16, NIBBLES)], axis=1)


def signed(  # (n, columns) -> (blocks, 32) uint8, (blocks, 1) float32
    rows: np.ndarray, levels: int, importance: Importance
) -> tuple[np.ndarray, np.ndarray]:
    """Find the scale and the integers of Q4_0 (8 levels) or Q5_0 (16): -levels to levels - 1, each stored plus `levels`.

    Without importance, the weight of the largest magnitude in a block becomes -levels exactly, whatever its own sign: that side
    has one integer more, so the scale may be negative. All others take the nearest integer. One as large on the other side would
    need +levels, which there is not, and takes levels - 1. A block of zeros has scale 0 and integers 0, stored as `levels`.
    """
    blocks = rows.reshape(-1, 32)
    if importance is not None:
        x = blocks.T.copy()
        scale = search_scale(x, weight_of(rows, importance), -levels, levels - 1, last=True)
        return as_codes(nearest(x, reciprocal(scale), -levels, levels - 1) + levels), scale[:, None]
    # BEGIN SOLUTION ex=09.3
    scale = largest(blocks) / np.float32(-levels)
    q = np.trunc(blocks * reciprocal(scale) + np.float32(levels + 0.5))  # not negative: cutting off digits rounds down
    q = np.minimum(q, 2 * levels - 1)
    # END SOLUTION
    return q.astype(np.uint8), scale


def from_minimum(  # (n, columns) -> (blocks, 32) uint8, (blocks, 1) float32, (blocks, 1) float32
    rows: np.ndarray, top: int, importance: Importance
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find integers from 0 to top, the scale and the minimum of each block."""
    blocks = rows.reshape(-1, 32)
    if importance is not None:
        x = blocks.T.copy()
        scale, minimum = search_scale_and_minimum(x, weight_of(rows, importance), top, last=True)
        return as_codes(nearest(x + minimum, reciprocal(scale), 0, top)), scale[:, None], -minimum[:, None]
    lowest = np.take_along_axis(blocks, blocks.argmin(axis=1, keepdims=True), axis=1)  # not min: the first of 0 and -0
    scale = (blocks.max(axis=1, keepdims=True) - lowest + np.float32(0)) / np.float32(top)  # + 0: never -0
    q = np.trunc((blocks - lowest) * reciprocal(scale) + np.float32(0.5))
    return np.minimum(q, top).astype(np.uint8), scale, lowest


def weight_of(rows: np.ndarray, importance: np.ndarray) -> np.ndarray:  # (n, columns), (columns,) -> (32, blocks)
    """Weigh errors by importance, and by the size of weights relative to their row."""
    r = measures.relative_size(rows).reshape(-1, 32)
    return np.ascontiguousarray(measures.linear(r, measures.beside(importance, len(rows), 32)).T)


def as_codes(q: np.ndarray) -> np.ndarray:  # (32, blocks) float32 -> (blocks, 32) uint8
    return q.T.astype(np.uint8, order="C")


def largest(blocks: np.ndarray) -> np.ndarray:  # (n, weights) float32 -> (n, 1) float32
    """Find the weight of the largest magnitude in each block, with its sign; the first of equals, and never -0."""
    return np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1, keepdims=True), axis=1) + np.float32(0)


def round_half_away(x: np.ndarray) -> np.ndarray:
    """Round to the nearest integer, a tie away from zero, as C's roundf does; NumPy's rint takes the even one."""
    whole = np.trunc(x)
    return whole + np.trunc(2 * (x - whole))  # x - whole is exact, and 1/2 becomes 1
