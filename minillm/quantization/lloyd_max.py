"""Lloyd-Max: the best codebook that so many bits can have, the yardstick for all others.

A codebook is a table of 2^bits levels; each number becomes the nearest of them. For a given distribution the squared error is
least where two conditions hold, each of which is easy to meet while the other stands still:

    borders: halfway between two levels              ─┬──────┬────┬──┬─┬─┬──┬────┬──────┬─
    levels:  the mean of what lies between borders    │  ·   │ ·  │· │·│·│ ·│  · │   ·  │

So one takes turns until nothing moves: k-means in one dimension. Where it ends depends on where it begins, unless the logarithm
of the density is concave, as a normal one's; so it begins at the best of all cuts of a coarse histogram. Weights get a scale a
block, its largest magnitude, before they meet the table; the levels are then fitted to w / scale, each counted by scale², as its
error will count.

    a normal distribution with σ = 1, without blocks: mean squared error 0.1175 in 2 bits, 0.009497 in 4 (Max's table)

Lloyd 1957 (printed 1982), "Least squares quantization in PCM"; Max 1960, "Quantizing for minimum distortion".
"""

from dataclasses import dataclass

import numpy as np

from minillm.errors import MiniLLMError
from minillm.quantization.affine import as_half
from minillm.quantization.fp4 import blocks_of

BLOCK = 64
RUNS = 384  # numbers of the histogram, more than the levels of 8 bits
ROUNDS = 1000  # of taking turns, at most


@dataclass(frozen=True, slots=True)
class CodebookMatrix:
    """A matrix by a table: w = scales[row, block] · levels[code]. codes (rows, columns) uint8; scales as float16 holds them."""

    codes: np.ndarray
    scales: np.ndarray
    levels: np.ndarray  # (2^bits,) float32, rising

    @property
    def bits_per_weight(self) -> float:
        """Bits of a weight with its share of a float16 scale; the table is one for the matrix, and is not counted."""
        return np.log2(len(self.levels)) + 16 * self.scales.size / self.codes.size

    def dense(self) -> np.ndarray:  # -> (rows, columns) float32
        """Dequantize into a new array."""
        values = self.levels[self.codes].reshape(*self.scales.shape, -1)
        return (values * self.scales[:, :, None]).reshape(self.codes.shape)


def lloyd_max(  # (n,) numbers, int, (n,) how much each counts -> (2^bits,) float64, rising
    values: np.ndarray, bits: int, counts: np.ndarray | None = None
) -> np.ndarray:
    """Find the levels with the least squared error for these numbers. A distribution is its density on a fine grid of numbers.

    MiniLLMError for fewer different numbers than levels, NaN and infinity, counts that are negative or of another length, and for
    bits other than 1 to 8.
    """
    values = np.asarray(values, np.float64).reshape(-1)
    counts = np.ones_like(values) if counts is None else np.asarray(counts, np.float64).reshape(-1)
    if not 1 <= bits <= 8:
        raise MiniLLMError(f"a codebook has 1 to 8 bits, found {bits}.")
    if len(counts) != len(values) or not (np.isfinite(values).all() and np.isfinite(counts).all() and (counts >= 0).all()):
        raise MiniLLMError(f"expected {len(values):,} finite numbers, each with a count of 0 or more; found others.")
    values, place = np.unique(values[counts > 0], return_inverse=True)
    counts = np.bincount(place, counts[counts > 0])
    if len(values) < 1 << bits:
        raise MiniLLMError(f"{1 << bits} levels need as many different numbers, found {len(values):,}.")
    mass, moment, square = (np.concatenate([[0], np.cumsum(counts * values**power)]) for power in range(3))
    edges = np.linspace(0, len(values), min(len(values), RUNS) + 1).astype(int)
    borders = edges[best_cut(mass[edges], moment[edges], square[edges], 1 << bits)]
    levels = np.diff(moment[borders]) / np.diff(mass[borders])
    for _ in range(ROUNDS):
        borders = np.concatenate([[0], np.searchsorted(values, (levels[1:] + levels[:-1]) / 2), [len(values)]])
        weight = np.diff(mass[borders])
        moved = np.where(weight > 0, np.diff(moment[borders]) / np.where(weight > 0, weight, 1), levels)
        if np.allclose(moved, levels, rtol=1e-9, atol=0):
            break
        levels = moved
    return moved


def best_cut(mass: np.ndarray, moment: np.ndarray, square: np.ndarray, parts: int) -> np.ndarray:  # (n + 1,) each -> (parts + 1,)
    """Cut a row of n runs of numbers into parts with the least squared error about their means; return where each begins.

    Of each run the sums of counts, numbers and squares up to it. The best cut into k parts, of which the last begins at i, is the
    best into k - 1 of what lies before i: dynamic programming (Bruce 1965, "Optimum quantization").
    """
    n = len(mass) - 1
    weight, sums = (x[None, :] - x[:, None] for x in (mass, moment))
    error = np.full((n + 1, n + 1), np.inf)
    ahead = np.triu(np.ones((n + 1, n + 1), bool), 1)
    error[ahead] = ((square[None, :] - square[:, None])[ahead] - sums[ahead] ** 2 / weight[ahead]).clip(0)
    best, begins = error[0], []
    for _ in range(parts - 1):
        through = best[:, None] + error
        begins.append(through.argmin(axis=0))
        best = through.min(axis=0)
    borders = [n]
    for begin in reversed(begins):
        borders.append(int(begin[borders[-1]]))
    return np.array([0, *reversed(borders)])


def quantize_codebook(  # (rows, columns), (2^bits,) rising within -1 … 1 -> CodebookMatrix
    weights: np.ndarray, levels: np.ndarray, block: int = BLOCK, signed: bool = False
) -> CodebookMatrix:
    """Quantize to the nearest level, times the scale of the weight's block. MiniLLMError as block_scales."""
    blocks, levels = blocks_of(weights, block), np.asarray(levels, np.float32)
    scales = block_scales(blocks, signed)
    codes = nearest_level(blocks / np.where(scales == 0, np.float32(1), scales)[:, :, None], levels)
    return CodebookMatrix(codes.reshape(len(blocks), -1), scales, levels)


def quantize_lloyd_max(  # (rows, columns) -> CodebookMatrix
    weights: np.ndarray, bits: int = 4, block: int = BLOCK, signed: bool = False
) -> CodebookMatrix:
    """Quantize a matrix with the codebook that is best for it: no other table of so many bits, scaled so, has less error."""
    blocks = blocks_of(weights, block)
    scales = block_scales(blocks, signed)[:, :, None]
    scaled = blocks / np.where(scales == 0, np.float32(1), scales)
    return quantize_codebook(weights, lloyd_max(scaled, bits, np.broadcast_to(scales**2, blocks.shape)), block, signed)


def block_scales(blocks: np.ndarray, signed: bool = False) -> np.ndarray:  # (rows, blocks, n) -> (rows, blocks) float32
    """Take the largest magnitude of each block (absmax), as float16 holds it: scaled weights lie in -1 … 1.

    signed: with the sign that puts that weight at -1, always. The sign bit of a scale is there anyhow, and a table that knows
    where the largest weight is needs one level for it, not two: so IQ4_NL's ends at 113 above 0, and at -127 below.
    MiniLLMError for scales beyond float16.
    """
    if not signed:
        return as_half(np.abs(blocks).max(axis=2))
    return as_half(-np.take_along_axis(blocks, np.abs(blocks).argmax(axis=2)[:, :, None], axis=2)[:, :, 0])


def nearest_level(x: np.ndarray, levels: np.ndarray) -> np.ndarray:  # (...), (n,) rising -> (...) uint8
    """Number the nearest of some levels; in the middle between two the lower."""
    return np.searchsorted((levels[1:] + levels[:-1]) / 2, x).astype(np.uint8)
