"""The K types, written: what `super_blocks` decides, packed as `k_quants` unpacks it.

A type is a `Layout`: the bounds of its integers, and the measure of its error. From there on all types go the same way, until
their integers are laid into bytes, each type by its own picture (`k_quants`).

    w ≈ (d · scale[group]) · q - (dmin · min[group])

Layouts: ggml's quants (`ggml-common.h`, `ggml-quants.c`).
"""

import numpy as np

from minillm.formats import measures
from minillm.formats.packing import Importance, pack_planes, pack_six_bit_scales, to_half
from minillm.formats.super_blocks import BLOCK, Blocks, Layout, by_block, search_blocks

Q2_K = Layout(16, (0, 3), (0, 15), True, measures.almost_linear)
Q3_K = Layout(16, (-4, 3), (-32, 31), False, measures.quadratic)
Q4_K = Layout(32, (0, 15), (0, 63), True, measures.linear)
Q5_K = Layout(32, (0, 31), (0, 63), True, measures.linear)
Q6_K = Layout(16, (-32, 31), (-128, 127), False, measures.by_importance_alone)


def search(rows: np.ndarray, layout: Layout, importance: Importance) -> Blocks:  # (n, columns) float32, (columns,) or None
    """Decide all about the blocks of some rows."""
    return search_blocks(rows.reshape(-1, BLOCK), layout, measures.beside(importance, len(rows), BLOCK))


def whole(numbers: np.ndarray, plus: int = 0) -> np.ndarray:  # (group, groups, n) or (groups, n) -> (n, 256) or (n, groups) uint8
    """Make bytes of integers that float32 held, after adding what makes them positive."""
    positive = (numbers + np.float32(plus)).astype(np.uint8)
    return by_block(positive) if positive.ndim == 3 else np.ascontiguousarray(positive.T)


def pack_q2_k(rows: np.ndarray, importance: Importance = None) -> np.ndarray:  # (n, columns) float32 -> (blocks, 84) uint8
    """Encode Q2_K."""
    found = search(rows, Q2_K, importance)
    scales, q = whole(found.scale) | whole(found.minimum) << 4, whole(found.q)
    return np.concatenate([scales, pack_planes(q, 32, (0, 2, 4, 6)), to_half(found.d), to_half(found.dmin)], axis=1)


def pack_q3_k(rows: np.ndarray, importance: Importance = None) -> np.ndarray:  # (n, columns) float32 -> (blocks, 110) uint8
    """Encode Q3_K."""
    found = search(rows, Q3_K, importance)
    scale, q = whole(found.scale, 32), whole(found.q, 4)
    top, low = pack_planes(q >> 2, 32, range(8)), pack_planes(q & 3, 32, (0, 2, 4, 6))
    scales = [pack_planes(scale & 15, 8, (0, 4)), pack_planes(scale >> 4, 4, (0, 2, 4, 6))]
    return np.concatenate([top, low, *scales, to_half(found.d)], axis=1)


def pack_q4_k(rows: np.ndarray, importance: Importance = None) -> np.ndarray:  # (n, columns) float32 -> (blocks, 144) uint8
    """Encode Q4_K."""
    found = search(rows, Q4_K, importance)
    return np.concatenate([head(found), pack_planes(whole(found.q), 32, (0, 4))], axis=1)


def pack_q5_k(rows: np.ndarray, importance: Importance = None) -> np.ndarray:  # (n, columns) float32 -> (blocks, 176) uint8
    """Encode Q5_K."""
    found = search(rows, Q5_K, importance)
    q = whole(found.q)
    return np.concatenate([head(found), pack_planes(q >> 4, 32, range(8)), pack_planes(q & 15, 32, (0, 4))], axis=1)


def pack_q6_k(rows: np.ndarray, importance: Importance = None) -> np.ndarray:  # (n, columns) float32 -> (blocks, 210) uint8
    """Encode Q6_K."""
    found = search(rows, Q6_K, importance)
    q, scale = whole(found.q, 32), np.ascontiguousarray(found.scale.T.astype(np.int8)).view(np.uint8)
    low, high = pack_planes(q & 15, 64, (0, 4)), pack_planes(q >> 4, 32, (0, 2, 4, 6))
    return np.concatenate([low, high, scale, to_half(found.d)], axis=1)


def head(found: Blocks) -> np.ndarray:  # -> (n, 16) uint8
    """Pack what Q4_K and Q5_K begin with: d, dmin, and the groups' scales and minima."""
    scales = pack_six_bit_scales(whole(found.scale), whole(found.minimum))
    return np.concatenate([to_half(found.d), to_half(found.dmin), scales], axis=1)
