"""AWQ, activation-aware weight quantization: before rounding, the columns with large inputs are made larger.

A weight's rounding error reaches the output times its input, so the error of a column whose inputs are large counts most. And a
weight that is multiplied by s before it is rounded, and divided by s after, keeps 1/s of its error, as long as it is not what
decides the scale of its group. So each column j gets a scale of its own, from the inputs that some text gave it:

    s_j = mean|x_j|^α          Ŵ = Q(W · s) / s          α = the best of 0, 1/20 … 1 by ‖(W - Ŵ) Xᵀ‖²          α = 0 is RTN

The division costs nothing at run time: W · s is stored, and 1/s goes into whatever made x (calibration/folding.py). Matrices with
one input (q, k, v; gate, up) share it. Lin et al. 2023, arXiv:2306.00978, §3.2; clipping: their code, auto_clip.py.
"""

from collections.abc import Sequence

import numpy as np

from minillm.errors import MiniLLMError
from minillm.quantization.affine import AffineMatrix, Grid, checked, round_to_nearest

STEPS = 20  # of α from 0 to 1
FLOOR = 1e-4  # of the largest magnitude: what a column without inputs counts as


def awq(weights: np.ndarray, scales: np.ndarray, grid: Grid) -> AffineMatrix:  # (rows, columns), (columns,)
    """Quantize W · s. Its inputs must be divided by the same scales."""
    return round_to_nearest(checked(weights) * scales, grid)


def awq_scales(  # one (rows, columns) or several, (columns,), (n, columns) -> (columns,) float32
    weights: np.ndarray | Sequence[np.ndarray], magnitudes: np.ndarray, inputs: np.ndarray, grid: Grid, steps: int = STEPS
) -> np.ndarray:
    """Search the scales that leave the smallest error in the outputs of all matrices that share these inputs.

    magnitudes: mean |x| of each column, over a whole text. inputs: a sample of x, or any matrix with the same XᵀX, such as a
    transposed Cholesky factor of GPTQ's Hessian: the error is the same. Of equals, the smaller α.

    MiniLLMError for no inputs, inputs or magnitudes that are not finite, and sizes that do not fit.
    """
    matrices = [checked(w) for w in ([weights] if isinstance(weights, np.ndarray) else weights)]
    inputs = checked_inputs(inputs, matrices)
    if np.shape(magnitudes) != (inputs.shape[1],):
        raise MiniLLMError(f"expected a magnitude for each of {inputs.shape[1]:,} columns, found shape {np.shape(magnitudes)}.")
    if len(inputs) > inputs.shape[1]:
        inputs = np.asarray(np.linalg.qr(inputs, mode="r"))  # RᵀR = XᵀX, with no more rows than columns
    # BEGIN SOLUTION ex=07.6
    best, least = np.ones(inputs.shape[1], np.float32), np.inf
    for alpha in np.arange(steps + 1) / steps:
        scales = scales_at(magnitudes, alpha)
        error = sum(error_on(w, awq(w, scales, grid).dense() / scales, inputs) for w in matrices)
        if error < least:
            best, least = scales, error
    # END SOLUTION
    return best


def scales_at(magnitudes: np.ndarray, alpha: float) -> np.ndarray:  # (columns,) -> (columns,) float32
    """Compute mean|x|^α, normalized so that the largest scale is the reciprocal of the smallest.

    A column that never had an input is scaled as one with FLOOR of the largest magnitude. Where no column had any, all are 1.
    """
    if not (np.isfinite(magnitudes) & (magnitudes >= 0)).all():
        raise MiniLLMError(f"AWQ: magnitudes of inputs must be finite and at least 0, found {np.min(magnitudes)}.")
    largest = float(np.max(magnitudes, initial=0))
    if largest == 0:
        return np.ones(len(magnitudes), np.float32)
    scales = np.maximum(np.asarray(magnitudes, np.float64) / largest, FLOOR) ** alpha
    return (scales / np.sqrt(scales.max() * scales.min())).astype(np.float32)


def error_on(weights: np.ndarray, rounded: np.ndarray, inputs: np.ndarray) -> float:  # (rows, columns) twice, (n, columns)
    """Sum the squared errors of the outputs, ‖(W - Ŵ) Xᵀ‖²."""
    return float(np.square(inputs @ (weights - rounded).T, dtype=np.float64).sum())


def clip(  # (rows, columns), (n, columns) -> (rows, columns) float32
    weights: np.ndarray, inputs: np.ndarray, grid: Grid, steps: int = 10
) -> np.ndarray:
    """Cut the largest weights of each group where that helps the rest: a narrower grid has finer steps.

    Of the limits 1, 1 - 1/20, … 1/2 of the group's largest magnitude, each group takes the one with the smallest error in its
    share of the output. Round what comes back. For W · s give inputs divided by s.
    """
    weights = checked(weights)
    inputs = checked_inputs(inputs, [weights])
    groups = weights.reshape(len(weights), grid.groups(weights.shape[1]), -1)
    x = inputs.reshape(len(inputs), *groups.shape[1:]).swapaxes(0, 1)  # (groups, n, group)
    gram = x.swapaxes(1, 2) @ x  # (groups, group, group)
    largest = np.abs(groups).max(axis=2, keepdims=True)
    best, least = groups.copy(), np.full(groups.shape[:2], np.inf)
    for share in 1 - np.arange(steps + 1) / (2 * steps):
        cut = np.clip(groups, -share * largest, share * largest)
        wrong = groups - round_to_nearest(cut.reshape(weights.shape), grid).dense().reshape(groups.shape)
        errors = ((wrong.swapaxes(0, 1) @ gram).swapaxes(0, 1) * wrong).sum(axis=2)
        better = errors < least
        best[better], least[better] = cut[better], errors[better]
    return best.reshape(weights.shape)


def checked_inputs(inputs: np.ndarray, matrices: Sequence[np.ndarray]) -> np.ndarray:  # -> (n, columns) float32
    """Refuse inputs that say nothing about these matrices."""
    inputs = np.asarray(inputs, np.float32)
    columns = sorted({w.shape[1] for w in matrices})
    if inputs.ndim != 2 or columns != [inputs.shape[-1]]:
        raise MiniLLMError(f"expected inputs for matrices of {columns} columns, found an array of shape {inputs.shape}.")
    if len(inputs) == 0:
        raise MiniLLMError("expected at least 1 input to calibrate on, found 0: give more text.")
    if not np.isfinite(inputs).all():
        bad = np.count_nonzero(~np.isfinite(inputs))
        raise MiniLLMError(f"expected finite inputs; found {bad:,} of {inputs.size:,} NaN or infinite.")
    return inputs
