"""The affine grid: a group of weights shares a scale and a minimum, and each weight is a small whole number, its code.

    w ≈ scale · code + minimum            code = 0 … 2^bits - 1

             minimum                                        minimum + (2^bits - 1) · scale
    asymmetric  ├────┼────┼────┼────┼────┼────┼────┤         from the smallest weight to the largest
    symmetric   ├────┼────┼────┼────0────┼────┼────┤         minimum = -2^(bits-1) · scale: 0 is on the grid

Scale and minimum are float16, as a file keeps them, and codes are chosen after that rounding. Others keep a whole `zero point`
z in place of the minimum, w = scale · (code - z): the same line, with a minimum that must be a multiple of the scale.

Rounding each weight to the nearest step (RTN, round to nearest) is the method that all others are measured against: GPTQ, AWQ
and HQQ choose other codes, or another grid, for the same format. Jacob et al. 2018, arXiv:1712.05877; the groups: Shen et al.
2020, arXiv:1909.05840 (Q-BERT).
"""

from dataclasses import dataclass

import numpy as np

from minillm.errors import MiniLLMError

BITS = (2, 3, 4, 8)


@dataclass(frozen=True, slots=True)
class Grid:
    """What is shared by whom. group: so many neighbours in a row share a scale; None: a whole row does ("per channel").

    For one scale for a tensor, give its weights as a single row: `weights.reshape(1, -1)`.
    """

    bits: int
    group: int | None = 64
    symmetric: bool = False

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise MiniLLMError(f"an affine grid has {', '.join(map(str, BITS[:-1]))} or {BITS[-1]} bits, found {self.bits}.")
        if self.group is not None and self.group < 1:
            raise MiniLLMError(f"a group has at least 1 weight, found {self.group}.")

    @property
    def top(self) -> int:
        """The largest code."""
        return (1 << self.bits) - 1

    def groups(self, columns: int) -> int:
        """Count the groups of a row. MiniLLMError where they do not fill it."""
        group = self.group or columns
        if columns % group:
            raise MiniLLMError(f"groups of {group} weights do not fill rows of {columns:,}: {columns % group} are left over.")
        return columns // group


@dataclass(frozen=True, slots=True)
class AffineMatrix:
    """A matrix on a grid. codes (rows, columns) uint8; scales, minima (rows, groups) float32 that float16 holds."""

    grid: Grid
    codes: np.ndarray
    scales: np.ndarray
    minima: np.ndarray

    @property
    def bits_per_weight(self) -> float:
        """Bits of a weight with its share of a float16 scale, and of a minimum where the scale does not give it."""
        each = 16 if self.grid.symmetric else 32
        return self.grid.bits + each * self.scales.size / self.codes.size

    def dense(self) -> np.ndarray:  # -> (rows, columns) float32
        """Dequantize into a new array."""
        (rows, columns), groups = self.codes.shape, self.scales.shape[1]
        codes = self.codes.reshape(rows, groups, -1)
        return (self.scales[:, :, None] * codes + self.minima[:, :, None]).reshape(rows, columns)


def round_to_nearest(weights: np.ndarray, grid: Grid) -> AffineMatrix:  # (rows, columns)
    """Quantize each weight to the nearest step of its group's grid (RTN).

    MiniLLMError for other than two axes, groups that do not fill a row, weights that are NaN or infinite, or too large for a
    float16 scale.
    """
    weights = checked(weights)
    scales, minima = fit(weights, grid)
    return AffineMatrix(grid, encode(weights, scales, minima, grid), scales, minima)


def fit(weights: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:  # (rows, columns) -> two (rows, groups) float32
    """Span each group's weights with its grid: scale and minimum, rounded to float16 (as_half).

    Asymmetric: the smallest weight of the group has code 0, the largest grid.top. Symmetric: the range from -absmax to absmax is
    cut into grid.top steps, and code 2^(bits-1) is exactly 0, so that half a step is lacking above. The minimum is always the
    weight of code 0. A group of equal weights has scale 0 on an asymmetric grid, and is its minimum.
    """
    groups = weights.reshape(len(weights), grid.groups(weights.shape[1]), -1)
    # BEGIN SOLUTION ex=07.2
    if grid.symmetric:
        scales = as_half(2 * np.abs(groups).max(axis=2) / np.float32(grid.top))
        minima = as_half(-(1 << grid.bits - 1) * scales)
    else:
        lowest, highest = groups.min(axis=2), groups.max(axis=2)
        scales = as_half((highest - lowest) / np.float32(grid.top))
        minima = as_half(lowest)
    # END SOLUTION
    return scales, minima


def encode(  # (rows, columns), two (rows, groups) -> (rows, columns) uint8
    weights: np.ndarray, scales: np.ndarray, minima: np.ndarray, grid: Grid
) -> np.ndarray:
    """Choose the nearest code of each weight; beyond the ends of the grid, the end. Where the scale is 0, all codes are 0."""
    groups = weights.reshape(*scales.shape, -1)
    # BEGIN SOLUTION ex=07.3
    step = np.where(scales == 0, np.float32(np.inf), scales)[:, :, None]
    codes = np.clip(np.rint((groups - minima[:, :, None]) / step), 0, grid.top)
    # END SOLUTION
    return codes.astype(np.uint8).reshape(weights.shape)


def checked(weights: np.ndarray) -> np.ndarray:  # -> (rows, columns) float32
    """Refuse what is no matrix of finite numbers."""
    with np.errstate(over="ignore"):  # beyond float32 is infinite, and refused below
        weights = np.asarray(weights, np.float32)
    if weights.ndim != 2 or weights.size == 0:
        raise MiniLLMError(f"expected a matrix of 2 axes with at least 1 weight, found shape {weights.shape}.")
    if not np.isfinite(weights).all():
        bad = np.count_nonzero(~np.isfinite(weights))
        raise MiniLLMError(f"expected finite weights; found {bad:,} of {weights.size:,} NaN or infinite.")
    return weights


def as_half(values: np.ndarray) -> np.ndarray:  # float32 -> float32
    """Round to what float16 holds. MiniLLMError beyond 65,504."""
    with np.errstate(over="ignore"):
        found = values.astype(np.float16).astype(np.float32)
    if not np.isfinite(found).all():
        raise MiniLLMError(f"scales and minima are float16, at most 65,504; found {np.abs(values).max():,.6g}.")
    return found
