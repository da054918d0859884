"""HQQ, half-quadratic quantization: the grid of each group is shifted so that most weights fit well, and no text is needed.

Round to nearest spans the whole group, so its two outermost weights fit exactly and the others as it happens. HQQ moves the
minimum (others say: the zero point) to lower Σ |w - ŵ|^p with p below 1: a norm that forgives a few large errors for many small
ones. No derivative helps with that norm, so the error is split into a part e that is let go and a rest that is squared, and
each is minimized in turn (half-quadratic splitting), in units of the group's step:

    r = (w - ŵ) / scale                                 codes rounded to nearest for the minimum so far
    e = sign(r) · max(0, |r| - |r|^(p-1) / β)           the large errors, let go (shrinkage); β grows by κ each time
    minimum = mean of w - scale · (code + e)            what is best for the rest, in squares

Badri and Shaji 2023, "Half-Quadratic Quantization of Large Machine Learning Models". Theirs shrinks errors in the weights' own
units, where with its β they are so small that none is let go; in steps, a matrix times 1,000 has the same codes.
"""

import numpy as np

from minillm.errors import MiniLLMError
from minillm.quantization.affine import AffineMatrix, Grid, as_half, checked, encode, fit

P, BETA, GROWTH = 0.7, 10.0, 1.01  # the authors' p, β and κ


def hqq(weights: np.ndarray, grid: Grid, p: float = P, iterations: int = 20) -> AffineMatrix:  # (rows, columns)
    """Quantize with the minimum of each group moved to lower the p-norm of its errors; none has a larger one than RTN leaves.

    The scale stays what fit() made it. MiniLLMError as round_to_nearest, and for a symmetric grid, whose minimum cannot move.
    """
    weights = checked(weights)
    if grid.symmetric:
        raise MiniLLMError("HQQ moves the minimum of each group: that needs an asymmetric grid, found a symmetric one.")
    scales, minima = fit(weights, grid)
    step = np.where(scales == 0, np.float32(1), scales)[:, :, None]
    groups = weights.reshape(*scales.shape, -1)
    best, least, beta = minima, np.full(minima.shape, np.inf), BETA
    for _ in range(iterations + 1):
        codes = encode(weights, scales, minima, grid).reshape(groups.shape)
        residual = (groups - minima[:, :, None]) / step - codes  # in steps
        norms = (np.abs(residual) ** p).sum(axis=2)
        best, least = np.where(norms < least, minima, best), np.minimum(norms, least)
        let_go = shrink(residual, beta, p)
        minima = as_half((groups - step * (codes + let_go)).mean(axis=2))
        beta *= GROWTH
    return AffineMatrix(grid, encode(weights, scales, best, grid), scales, best)


def shrink(r: np.ndarray, beta: float, p: float) -> np.ndarray:  # any shape -> same
    """Minimize |e|^p + β/2 (e - r)², nearly: what is small becomes 0, what is large loses little.

    For p = 1 this is soft thresholding, and exact. Source: the generalized shrinkage of Chartrand 2012, as HQQ takes it.
    """
    size = np.abs(r)
    with np.errstate(divide="ignore"):  # 0^(p-1) is infinite, and max() makes 0 of it
        return np.sign(r) * np.maximum(0, size - size ** (p - 1) / np.float32(beta))
