"""SmoothQuant: a part of the activations' outliers is moved into the weights, which have room for it.

Activations are hard to round, for some of their columns are large; weights are easy, for theirs are much alike. Dividing a column
of x and multiplying that of w by the same number changes no product, so choose numbers that share the difficulty:

    x wᵀ = (x / s)(w · s)ᵀ          s_j = max|x_j|^α / max|w_j|^(1-α)

    α = 0   max|w_j s_j| = 1        the weights are flat, and the activations worse
    α = 1   max|x_j / s_j| = 1      the activations are flat, and the weights have all outliers
    α = ½   max|x_j / s_j| = max|w_j s_j| = √(max|x_j| max|w_j|)          both have as much of them in every column

max|x_j| is from a calibration text. s costs nothing at run time: w · s is stored, and 1/s goes into the norm that makes x
(calibration/folding.py). Matrices with one input (q, k, v; gate, up) share s. Xiao et al. 2022, arXiv:2211.10438, equation 4.
"""

from collections.abc import Sequence

import numpy as np

from minillm.errors import MiniLLMError

FLOOR = 1e-5  # of the largest column: what a smaller one counts as


def smoothing_scales(  # (columns,), one (rows, columns) or several -> (columns,) float32
    x_max: np.ndarray, weights: np.ndarray | Sequence[np.ndarray], alpha: float = 0.5
) -> np.ndarray:
    """Compute s from the largest |x| of each column, and the largest |w| of each column over all matrices that share x.

    A column without inputs, or without weights, keeps the scale 1: a later text may have some. MiniLLMError for α outside 0 … 1,
    a calibration that saw nothing, numbers that are not finite, and sizes that do not fit.
    """
    matrices = [np.asarray(w, np.float32) for w in ([weights] if isinstance(weights, np.ndarray) else weights)]
    x_max = checked_range(x_max, matrices, alpha)
    w_max = np.max([np.abs(w).max(axis=0, initial=0) for w in matrices], axis=0).astype(np.float64)
    dead = (x_max == 0) | (w_max == 0)
    x_max, w_max = (np.maximum(top, FLOOR * top.max(initial=0)) for top in (x_max, w_max))
    x_max, w_max = np.where(dead, 1, x_max), np.where(dead, 1, w_max)
    s = x_max**alpha / w_max ** (1 - alpha)
    return s.astype(np.float32)


def smooth(x: np.ndarray, w: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # (n, columns), (rows, columns)
    """Move the scales from the columns of x into those of w: the product stays what it is."""
    return x / s, w * s


def checked_range(x_max: np.ndarray, matrices: Sequence[np.ndarray], alpha: float) -> np.ndarray:  # -> (columns,) float64
    """Refuse statistics that say nothing about these matrices."""
    if not 0 <= alpha <= 1:
        raise MiniLLMError(f"SmoothQuant: the migration strength is 0 to 1, found {alpha:g}.")
    x_max = np.asarray(x_max, np.float64)
    if wrong := [w.shape for w in matrices if w.ndim != 2 or x_max.shape != w.shape[1:]]:
        raise MiniLLMError(f"SmoothQuant: expected a maximum for each of {wrong[0][-1:]} columns, found shape {x_max.shape}.")
    if not x_max.any():
        raise MiniLLMError("SmoothQuant needs a calibration: expected inputs above 0, found none; run the model on text first.")
    bad = sum(np.count_nonzero(~np.isfinite(w)) for w in matrices)
    if bad or not (np.isfinite(x_max) & (x_max >= 0)).all():
        raise MiniLLMError("SmoothQuant: expected finite weights, and finite maxima of at least 0, found "
                           f"{bad:,} weights that are not, and maxima from {x_max.min():g} to {x_max.max():g}.")  # fmt: skip
    return x_max
