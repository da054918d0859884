"""GPTQ: round the columns of a matrix one after another, and let those that are still floats make good the error.

Rounding to nearest takes each weight for itself. But outputs are sums, and an error in one column can be met by a small change of
the others: where two inputs always come together, what one weight loses its neighbour can give. How far they come together says
the Hessian of the layer's squared error, H = 2/n Σ x xᵀ. The best answer to an error e in column j, by the columns F behind it:

    w_F ← w_F - e / [H_F⁻¹]_jj · [H_F⁻¹]_j,F          e = w_j - round(w_j)          (Optimal Brain Surgeon, Hassibi et al. 1993)

H_F⁻¹ belongs to the columns left, which are fewer at each step. That needs no n inversions: scaled, the rows above are the rows
of one triangular matrix, the Cholesky factor U of H⁻¹ = Uᵀ U, so all there is to do for column j is

    error = (w_j - round(w_j)) / U_jj          w_k ← w_k - error · U_jk          k > j

Updates of a block of columns are made at once for all columns behind it: a matrix product, in place of as many passes over the
whole matrix. act_order: columns with large inputs go first, while there are many others to make good; codes stay in place, so
the groups of the file do, and their grids are then fixed from the start ("static groups").

Frantar et al. 2022, arXiv:2210.17323; a row on its own is OBQ, Frantar and Alistarh 2022, arXiv:2208.11580.
"""

import numpy as np
from numpy import ndarray as Array

from minillm.errors import MiniLLMError
from minillm.quantization.affine import AffineMatrix, Grid, checked, encode, fit

DAMPING = 0.01  # of the mean diagonal
MORE = (0.01, 0.1, 1.0)  # where the Hessian is singular with less


def gptq(  # (rows, columns), (columns, columns) -> AffineMatrix
    weights: Array, hessian: Array, grid: Grid, damping: float = DAMPING, act_order: bool = False, block: int = 128
) -> AffineMatrix:
    """Quantize a matrix so that its outputs, on the inputs that the Hessian was made of, lose little.

    hessian: 2/n Σ x xᵀ, or any multiple of it. damping: added to its diagonal, as a share of the mean. act_order: columns in the
    order of falling diagonal; every group's grid then spans the weights as they were. Without it a group is fitted when its first
    column comes, to the weights as they are by then. block: columns whose updates go out together; the codes do not depend on it.

    MiniLLMError as round_to_nearest, for a Hessian of another shape, not finite, or not of squares, and for a negative damping.
    """
    weights = checked(weights)
    rows, columns = weights.shape
    group = columns // grid.groups(columns)
    hessian = checked_hessian(hessian, columns)
    if not 0 <= damping < np.inf:
        raise MiniLLMError(f"damping is a share of the Hessian's mean diagonal, 0 or more; found {damping}.")
    order = np.argsort(-np.diagonal(hessian), kind="stable") if act_order else np.arange(columns)
    upper = inverse_factor(hessian[np.ix_(order, order)], damping)
    (scales, minima), codes = fit(weights, grid), np.empty((rows, columns), np.uint8)
    left = weights.T[order].astype(np.float64)  # (columns, rows): a column of the matrix lies in one piece
    block = group * max(1, block // group)  # a group begins with a block, or lies within one
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        errors = np.empty((stop - start, rows))
        for j in range(start, stop):
            g = slice(order[j] // group, order[j] // group + 1)
            if not act_order and j % group == 0:  # all errors of earlier groups have reached this one
                scales[:, g], minima[:, g] = fit(left[j : j + group].T.astype(np.float32), grid)
            code = encode(left[j, :, None].astype(np.float32), scales[:, g], minima[:, g], grid)
            rounded = scales[:, g] * code + minima[:, g]
            codes[:, order[j]] = code[:, 0]
            # BEGIN SOLUTION ex=07.5
            errors[j - start] = (left[j] - rounded[:, 0]) / upper[j, j]
            left[j + 1 : stop] -= upper[j, j + 1 : stop, None] * errors[j - start]
            # END SOLUTION
        left[stop:] -= upper[start:stop, stop:].T @ errors
    return AffineMatrix(grid, codes, scales, minima)


def inverse_factor(hessian: Array, damping: float = DAMPING) -> Array:  # (columns, columns) twice, float64
    """Compute U, upper triangular, with H⁻¹ = Uᵀ U, after a share of the mean has been added to the diagonal of H.

    No inverse is factored, which rounding may have left indefinite: turned about both axes, the Cholesky factor of H is that of
    H = R Rᵀ with R upper triangular, and then U = R⁻¹. A column whose input is always 0 has nothing but the damping on its
    diagonal, and stands alone: what its weight loses nobody sees. Where H is singular all the same, more is added, at last the
    mean itself; MiniLLMError where that does not help: it was no sum of squares.
    """
    mean = np.diagonal(hessian).mean() or 1.0  # no inputs at all: every column for itself, as round_to_nearest does
    for share in (damping, *(more for more in MORE if more > damping)):
        damped = hessian + share * mean * np.eye(len(hessian))
        try:
            upper = np.triu(np.linalg.inv(np.linalg.cholesky(damped[::-1, ::-1])[::-1, ::-1]))
        except np.linalg.LinAlgError:
            continue
        if trusted(upper, damped):
            return upper
    raise MiniLLMError(
        f"a Hessian is a sum of x xᵀ, this one is not positive definite even with {MORE[-1]:.0%} of its mean diagonal added: its "
        f"smallest eigenvalue is {np.linalg.eigvalsh(hessian)[0] / mean:.3g} of that mean."
    )


def trusted(upper: Array, hessian: Array) -> bool:
    """Whether rounding left something of the factor: U H Uᵀ should be the identity, here to one part in a million."""
    with np.errstate(all="ignore"):
        rows = upper @ hessian
        return bool(np.abs(np.einsum("ij,ij->i", rows, upper) - 1).max() < 1e-6)


def checked_hessian(hessian: Array, columns: int) -> Array:  # -> (columns, columns) float64
    """Refuse what is no Hessian of inputs this wide."""
    hessian = np.asarray(hessian, np.float64)
    if hessian.shape != (columns, columns):
        raise MiniLLMError(f"the Hessian of {columns:,} columns has shape {(columns, columns)}, found {hessian.shape}.")
    if not np.isfinite(hessian).all():
        bad = np.count_nonzero(~np.isfinite(hessian))
        raise MiniLLMError(f"expected a finite Hessian; found {bad:,} of {hessian.size:,} values NaN or infinite.")
    if np.abs(hessian - hessian.T).max() > 1e-6 * np.abs(hessian).max() or np.diagonal(hessian).min() < 0:
        raise MiniLLMError("a Hessian is symmetric, with squares on its diagonal; found one that is not.")
    return hessian
