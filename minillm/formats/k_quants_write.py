"""The K types, written: what `super_blocks` decided, packed as `k_quants` unpacks it.

A type's `Layout` names the bounds of its integers and the measure of its error: what an error counts in a weight of the
relative size r, which is x over the root mean square of its block.

    Q2_K   |r| + 0.03          Q4_K, Q5_K   |r| + 1          Q3_K, Q6_K   r² + 0.4

An error in a large weight counts more, for it stands more often for something that the model needs. With importance, the
measure is importance · sqrt(2 + r²), for Q2_K sqrt(1 + r²), and for Q6_K importance alone: so many bits need no more.
Measures: ggml-quants.c. There 0.03 and 0.4 are 0: the search there changes little, so that the plain error stays small of
itself. This one goes further, and would move weights that are 0 and count for nothing to wherever it serves the others.
"""

from collections.abc import Callable

import numpy as np

from minillm.formats.packing import Importance, pack_planes, pack_six_bit_scales, to_half
from minillm.formats.scale_search import importance_of
from minillm.formats.super_blocks import BLOCK, Blocks, Layout, by_block, search_blocks


def measure(alone: Callable[[np.ndarray], np.ndarray], more: float | None) -> Callable[[np.ndarray, Importance], np.ndarray]:
    """Make a measure: `alone` of the relative size r, or importance · sqrt(more + r²), or importance where more is None."""

    def weigh(r: np.ndarray, importance: Importance) -> np.ndarray:
        if importance is None:
            return alone(r)
        return importance if more is None else importance * np.sqrt(np.float32(more) + r * r)

    return weigh


def squares(r: np.ndarray) -> np.ndarray:
    return r * r + np.float32(0.4)


Q2_K = Layout(16, (0, 3), (0, 15), True, measure(lambda r: np.abs(r) + np.float32(0.03), 1))
Q3_K = Layout(16, (-4, 3), (-32, 31), False, measure(squares, 2))
Q4_K = Layout(32, (0, 15), (0, 63), True, measure(lambda r: np.abs(r) + 1, 2))
Q5_K = Layout(32, (0, 31), (0, 63), True, Q4_K.measure)
Q6_K = Layout(16, (-32, 31), (-128, 127), False, measure(squares, None))


def search(rows: np.ndarray, layout: Layout, importance: Importance) -> Blocks:  # (n, columns) float32, (columns,) or None
    """Decide all about the blocks of some rows."""
    spread = None if importance is None else importance_of(importance, len(rows), BLOCK)
    return search_blocks(rows.reshape(-1, BLOCK), layout, spread)


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
