"""Online softmax: a softmax that sees its inputs once, in pieces.

Keep a running maximum m and a running sum l of exp(x - m). When a piece raises the maximum from m to m', all that was
summed so far shrinks by alpha = exp(m - m'). The same correction applied to a weighted sum of values is what lets
FlashAttention never hold a row of scores.

    m' = max(m, max(x))      alpha = exp(m - m')      l' = alpha · l + Σ exp(x - m')      acc' = alpha · acc + exp(x - m') V

Why it is exact. Claim: after any pieces, l = Σ exp(x - m) over all x seen, with m their maximum. It holds for none
(m = -inf, l = 0). If it held before, alpha · l = Σ exp(x - m) · exp(m - m') = Σ exp(x - m') over the old x, and the new
ones are added under the same m'. So it holds after each piece; likewise acc = Σ exp(x - m) v, and acc / l is
softmax(x) V. Nothing was approximated, and no exponent was ever positive: nothing overflows.

Milakov and Gimelshein 2018, arXiv:1805.02867. Rabe and Staats 2021, arXiv:2112.05682 (in attention).
"""

import numpy as np
from numpy import ndarray as Array


def statistics(m: Array, l: Array, x: Array) -> tuple[Array, Array]:  # (rows,), (rows,), (rows, n) -> (rows,), (rows,)
    """Fold the scores x of one piece into the running maximum and sum of each row.

    m' = max(m, max(x)) and l' = exp(m - m') l + Σ exp(x - m'), each row for itself. A row that has seen nothing has m = -inf
    and l = 0. A row of x that is -inf throughout leaves its state as it was, also that one: no NaN (`finite` below helps).
    Where all that is given is float32, so is the result.
    """
    # BEGIN SOLUTION ex=03.1
    m_new = np.maximum(m, x.max(axis=-1))
    safe = finite(m_new)
    l_new = l * np.exp(m - safe) + np.exp(x - safe[..., None]).sum(axis=-1)
    # END SOLUTION
    return m_new, l_new


def fresh_state(q: Array) -> tuple[Array, Array, Array]:  # (rows, d) -> (rows,), (rows,), (rows, d)
    """Make m, l and acc of rows that have seen no key. Made from q, so that they are on the device of q."""
    acc = np.zeros_like(q)
    return np.full_like(q[..., 0], -np.inf), np.zeros_like(q[..., 0]), acc


def update(  # (rows,), (rows,), (rows, d), (rows, n), (n, d) -> (rows,), (rows,), (rows, d)
    m: Array, l: Array, acc: Array, scores: Array, values: Array
) -> tuple[Array, Array, Array]:
    """Fold one tile of scores and values into the running state of its rows.

    As statistics, and acc' = exp(m - m') acc + Σ exp(x - m') v: the weighted sum of the values so far, not yet divided by l.
    A row whose scores are all -inf leaves its state unchanged: no NaN, whatever came before. float32 stays float32: a state in
    float64 takes twice the room in fast memory.
    """
    # BEGIN SOLUTION ex=03.2
    m_new = np.maximum(m, scores.max(axis=-1))
    safe = finite(m_new)
    alpha = np.exp(m - safe)
    weights = np.exp(scores - safe[..., None])
    l_new = alpha * l + weights.sum(axis=-1)
    acc_new = alpha[..., None] * acc + weights @ values
    # END SOLUTION
    return m_new, l_new, acc_new


def divide(acc: Array, l: Array) -> Array:  # (rows, d), (rows,) -> (rows, d)
    """Divide the weighted sum by the sum of weights: the output. A row that saw nothing gives 0."""
    return acc / np.where(l == 0, 1, l).astype(l.dtype)[..., None]


def log_sum_exp(m: Array, l: Array) -> Array:  # (rows,), (rows,) -> (rows,)
    """log Σ exp(x) of each row: all that is needed to merge two halves of a row, or to recompute its softmax later.

    A row that saw nothing gives -inf.
    """
    with np.errstate(divide="ignore"):  # log 0 = -inf is the right answer
        return m + np.log(l)


def finite(m: Array) -> Array:  # (...) -> (...)
    """Replace -inf in m by 0: exp(-inf - -inf) would be NaN, exp(-inf - 0) is the 0 that is meant."""
    return np.where(np.isneginf(m), m.dtype.type(0), m)
