"""Scales that are quantized themselves: the search through a block of the K types.

The groups of a block have integer scales, and minima, of 4 to 8 bits; a float16 for each of the two is worth one unit:

    x ≈ (d · scale[group]) · q - (dmin · minimum[group])

Everything here hangs together: round d, and each scale is a little off; round a scale, and other q are the nearest. So what
`scale_search` finds for each group alone is a beginning, and the block is then improved in turns, like best scale and best
integers before. Each turn keeps something only if the error *of what will be decoded* falls:

    fit d and dmin to all q, scales and minima      closed form, and the float16 numbers next to it
    step each scale and minimum by one              3 × 3 trials a group, each with its nearest q

Since d is rounded to 11 bits, luck matters for a block whose largest weight outweighs all others. Several beginnings, with the
largest scale one integer lower each time, give several draws; such blocks get more of them, and more turns. Types without a
minimum have all of them 0.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from minillm.formats import scale_search
from minillm.formats.measures import Measure, relative_size
from minillm.formats.packing import Importance, around, as_half
from minillm.formats.scale_search import dot, error_of, keep_better, nearest, peak, ratio, reciprocal, search_again

BLOCK = 256
OUTWEIGHS = 0.5  # of the sum of squares of a block: its largest weight alone
LARGEST = 1e9  # no type reaches further: 65,504, the largest float16, times 128 times 32 is less


class Effort(NamedTuple):
    """How long to search. beginnings: the largest scale becomes the largest integer, or one less, and so on.

    turns: how often a beginning is improved. reach: how far a turn steps scales and minima.
    """

    beginnings: int
    turns: int
    reach: int


USUAL, MORE = Effort(3, 1, 1), Effort(8, 4, 2)  # of any block; of one that a single weight outweighs


@dataclass(frozen=True, slots=True)
class Layout:
    """What the blocks of a type can hold: weights a group, the bounds of q and of a group's scale; minima begin at 0.

    measure: what an error counts (`measures`).
    """

    group: int
    q: tuple[int, int]
    scale: tuple[int, int]
    minima: bool
    measure: Measure


class Blocks(NamedTuple):
    """Some blocks, decided: the error of what will be decoded, and all that the file will hold, as float32."""

    error: np.ndarray  # (n,)
    d: np.ndarray  # (n,), float16 numbers
    dmin: np.ndarray  # (n,), float16 numbers
    scale: np.ndarray  # (groups, n), integers
    minimum: np.ndarray  # (groups, n), integers
    q: np.ndarray  # (weights of a group, groups, n), integers


def search_blocks(blocks: np.ndarray, layout: Layout, importance: Importance) -> Blocks:  # (n, 256) float32, twice
    """Decide all about some blocks. Raises OverflowError where a scale is beyond float16."""
    if np.abs(blocks).max(initial=0) > LARGEST:
        raise OverflowError
    x = by_group(blocks, layout)
    weight = by_group(layout.measure(relative_size(blocks), importance), layout)
    best = search(x, weight, layout, USUAL)
    search_again(best, x, weight, OUTWEIGHS, lambda x, weight: search(x, weight, layout, MORE))
    return best


def search(x: np.ndarray, weight: np.ndarray, layout: Layout, effort: Effort) -> Blocks:  # (group, groups, n), twice
    """Begin several times, improve each beginning by some turns, and the best of them by some more."""
    if layout.minima:
        scale, minimum = scale_search.search_scale_and_minimum(x, weight, layout.q[1])
    else:
        scale = scale_search.search_scale(x, weight, *layout.q)
        minimum = np.zeros_like(scale)
    best = improve(begin(x, weight, scale, minimum, layout, 0), x, weight, layout, effort)
    for lower in range(1, effort.beginnings):
        keep_better(best, improve(begin(x, weight, scale, minimum, layout, lower), x, weight, layout, effort))
    return improve(best, x, weight, layout, effort)


def by_group(blocks: np.ndarray, layout: Layout) -> np.ndarray:  # (n, 256) -> (weights of a group, groups, n)
    return np.ascontiguousarray(blocks.reshape(len(blocks), -1, layout.group).transpose(2, 1, 0))


def by_block(q: np.ndarray) -> np.ndarray:  # (weights of a group, groups, n) -> (n, 256)
    """Turn back what `by_group` turned."""
    return np.ascontiguousarray(q.transpose(2, 1, 0)).reshape(q.shape[2], -1)


def begin(  # (group, groups, n) twice, (groups, n) twice -> n Blocks
    x: np.ndarray, weight: np.ndarray, scale: np.ndarray, minimum: np.ndarray, layout: Layout, lower: int
) -> Blocks:
    """Round the scales and minima found for each group: the largest becomes the largest integer, less `lower`."""
    largest = layout.scale[1] - lower if layout.minima else layout.scale[0] + lower
    d = as_half(peak(scale) / np.float32(largest))
    dmin = as_half(minimum.max(axis=0) / np.float32(layout.scale[1] - lower))
    scale = nearest(scale, reciprocal(d), *layout.scale)
    minimum = nearest(minimum, reciprocal(dmin), 0, layout.scale[1])
    return decide(x, weight, d, dmin, scale, minimum, layout)


def decide(
    x: np.ndarray, weight: np.ndarray, d: np.ndarray, dmin: np.ndarray, scale: np.ndarray, minimum: np.ndarray, layout: Layout
) -> Blocks:
    """Find the best q for all the rest, and the error that is left."""
    q, error = rounded(x + dmin * minimum, weight, d * scale, layout)
    return Blocks(error.sum(axis=0, dtype=np.float64), d, dmin, scale, minimum, q)


def rounded(  # (group, groups, n) twice, (groups, n) -> (group, groups, n), (groups, n)
    raised: np.ndarray, weight: np.ndarray, unit: np.ndarray, layout: Layout
) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest q for weights that are raised by the minimum, and the error of each group."""
    q = nearest(raised, reciprocal(unit), *layout.q)
    return q, error_of(raised, q * unit, weight)


def improve(blocks: Blocks, x: np.ndarray, weight: np.ndarray, layout: Layout, effort: Effort = USUAL) -> Blocks:
    """Take turns: fit d and dmin, step the scales and minima, take the nearest q again."""
    for _ in range(effort.turns):
        d, dmin = fit_units(blocks, x, weight, layout)
        scale, minimum = step_scales(blocks, x, weight, d, dmin, layout, effort.reach)
        blocks = decide(x, weight, d, dmin, scale, minimum, layout)
    return blocks


def fit_units(blocks: Blocks, x: np.ndarray, weight: np.ndarray, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Find the float16 numbers d and dmin, given all integers: least squares, and the neighbours of what it says.

    With a = scale · q, b = minimum and the rest r = x - d a + dmin b, the error changes for d + δ and dmin + ε by

        δ² Σwaa - 2 δ ε Σwab + ε² Σwbb - 2 δ Σwar + 2 ε Σwbr
    """
    a, b = blocks.scale * blocks.q, blocks.minimum
    rest, wa = x - blocks.d * a + blocks.dmin * b, weight * a
    parts = dot(wa, a), wa.sum(axis=0) * b, weight.sum(axis=0) * b * b, dot(wa, rest), dot(weight, rest) * b
    AA, AB, BB, AR, BR = (part.sum(axis=0, dtype=np.float64) for part in parts)

    def change(delta: np.ndarray, epsilon: np.ndarray) -> np.ndarray:
        return delta * (delta * AA - 2 * epsilon * AB - 2 * AR) + epsilon * (epsilon * BB + 2 * BR)

    best = np.zeros_like(AA), blocks.d.copy(), blocks.dmin.copy()
    D = AA * BB - AB * AB
    for d in around(blocks.d + np.where(D > 1e-9 * AA * BB, ratio(AR * BB - AB * BR, D), ratio(AR, AA))):
        delta = d.astype(np.float64) - blocks.d
        for dmin in around(blocks.dmin + ratio(delta * AB - BR, BB)) if layout.minima else (blocks.dmin,):
            found = np.where(dmin >= 0, change(delta, dmin.astype(np.float64) - blocks.dmin), np.inf)
            keep_better(best, (found, d, dmin))
    return best[1], best[2]


def step_scales(
    blocks: Blocks, x: np.ndarray, weight: np.ndarray, d: np.ndarray, dmin: np.ndarray, layout: Layout, reach: int
) -> tuple[np.ndarray, np.ndarray]:
    """Try the integers next to each scale and minimum, each trial with its own nearest q. Returns the best of them."""
    best = np.full_like(blocks.scale, np.inf), blocks.scale.copy(), blocks.minimum.copy()
    steps = sorted(range(-reach, reach + 1), key=abs)  # of equals the first is kept
    for up in steps if layout.minima else (0,):
        minimum = np.clip(blocks.minimum + np.float32(up), 0, layout.scale[1])
        raised = x + dmin * minimum
        for more in steps:
            scale = np.clip(blocks.scale + np.float32(more), *layout.scale)
            keep_better(best, (rounded(raised, weight, d * scale, layout)[1], scale, minimum))
    return best[1], best[2]
