"""The search for scales: which integers, times which scale, come closest to a group of weights?

Two halves of the question have an answer at once. Given a scale, the best integers are the nearest ones. Given the integers,
the best scale is a least-squares fit, in closed form. What is left is where to begin, since going back and forth between the
two stops in the nearest dip of a jagged curve: so begin at several scales around the obvious one, which maps the largest
weight to the largest integer, and keep the best.

    error(s) = Σ w (x - s·q)²       s* = Σ w x q / Σ w q²       error(s*) = Σ w x² - s* · Σ w x q       the last term: the gain

An error counts more in some weights than in others, w: more in the large ones of a block, and in columns whose inputs are
large (importance). Arrays have the weights of a group along the first axis and groups along the others: a sum over each group
then adds whole rows of memory, and no temporary leaves the processor's cache.

Source of the measures, and of beginning at several scales: ggml's quants (`make_qx_quants`, `make_qkx3_quants`).
"""

import numpy as np

LEVELS = (-0.8, -0.4, 0.0, 0.4, 0.8)  # begin where the largest weight falls this far inside or outside of the largest integer
FLOOR = 0.01  # of the mean: the least importance of a column, for a text in which an input is 0 is only one text

Group = tuple[np.ndarray, ...]  # one array per group of weights, of equal shapes


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:  # (weights, ...), (weights, ...) -> (...)
    """Sum the products over each group."""
    return np.einsum("i...,i...->...", a, b)


def ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Divide, and answer 0 where b is not above 0."""
    return np.divide(a, b, out=np.zeros_like(a), where=b > 0)


def reciprocal(scale: np.ndarray) -> np.ndarray:
    """Compute 1 / scale, and 0 where that is infinite: such a scale is 0 in float16 too."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = 1 / scale
    return np.where(np.isinf(inverse), np.float32(0), inverse)


def nearest(x: np.ndarray, inverse: np.ndarray, low: int, high: int) -> np.ndarray:  # (weights, ...), (...) -> as x, integers
    """Find the best integers for a scale, given as 1 / scale: the nearest, from low to high, as float32."""
    q = x * inverse
    np.rint(q, out=q)
    return np.clip(q, np.float32(low), np.float32(high), out=q)


def keep_better(best: Group, found: Group) -> None:
    """Overwrite what is best so far in the groups where something better was found. First in both tuples: the gains."""
    better = found[0] > best[0]
    for old, new in zip(best, found, strict=True):
        np.copyto(old, new, where=better)


def best_scale(  # (weights, ...) three times -> (...), (...)
    x: np.ndarray, q: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fit x ≈ scale · q by least squares in each group, an error squared and times `weight`: Σ weight · (x - scale · q)².

    Returns the gain and the scale. The gain is what the fit takes off the error of all zeros, Σ weight · x²: of several q the
    one with the largest gain is best. A group whose q are all 0, or whose weights are, has gain 0 and scale 0.
    """
    # BEGIN SOLUTION ex=09.6
    wq = weight * q
    fit, size = dot(wq, x), dot(wq, q)
    scale = ratio(fit, size)
    gain = scale * fit
    # END SOLUTION
    return gain, scale


def peak(x: np.ndarray) -> np.ndarray:  # (weights, ...) -> (...)
    """Find the weight of the largest magnitude in each group, with its sign."""
    low, high = x.min(axis=0), x.max(axis=0)
    return np.where(-low > high, low, high)


def search_scale(x: np.ndarray, weight: np.ndarray, low: int, high: int) -> np.ndarray:  # (weights, ...) twice -> (...)
    """Find a scale for integers from low to high, low below zero and larger: it takes the largest weight, and its sign."""
    inverse = reciprocal(peak(x))
    best = np.zeros_like(inverse), np.zeros_like(inverse)
    for level in LEVELS:
        q = nearest(x, inverse * np.float32(low - level), low, high)
        keep_better(best, best_scale(x, q, weight))
    return best[1]


def best_scale_and_minimum(x: np.ndarray, q: np.ndarray, weight: np.ndarray) -> Group:  # (weights, ...) -> three (...)
    """Fit x ≈ scale · q - minimum by least squares, neither of them below zero. Returns gain, scale, minimum.

    The normal equations, with W = Σ weight and so on:   scale · QQ - minimum · Q = QX   and   scale · Q - minimum · W = X.
    """
    wq = weight * q
    W, X, Q = weight.sum(axis=0), dot(weight, x), wq.sum(axis=0)
    QQ, QX = dot(wq, q), dot(wq, x)
    D = W * QQ - Q * Q
    scale, minimum = ratio(W * QX - Q * X, D), ratio(Q * QX - QQ * X, D)
    good = (D > 1e-6 * W * QQ) & (scale > 0) & (minimum >= 0)  # else without a minimum; D is noise where all q are equal
    scale = np.where(good, scale, np.maximum(ratio(QX, QQ), 0))
    minimum = np.where(good, minimum, 0)
    gain = 2 * (scale * QX - minimum * X) - (scale * scale * QQ - 2 * scale * minimum * Q + minimum * minimum * W)
    return gain, scale, minimum


def search_scale_and_minimum(  # (weights, ...), (weights, ...) -> (...), (...)
    x: np.ndarray, weight: np.ndarray, high: int
) -> tuple[np.ndarray, np.ndarray]:
    """Find scale and minimum for integers from 0 to high: x ≈ scale · q - minimum."""
    lowest = np.minimum(x.min(axis=0), np.float32(0))
    inverse = reciprocal(x.max(axis=0) - lowest)
    mean = np.maximum(ratio(-dot(weight, x), weight.sum(axis=0)), 0)  # equal weights below zero: the minimum does it alone
    best = mean * mean * weight.sum(axis=0), np.zeros_like(mean), mean
    above = x - lowest
    for level in LEVELS:
        q = nearest(above, inverse * np.float32(high + level), 0, high)
        keep_better(best, best_scale_and_minimum(x, q, weight))
    q = nearest(x + best[2], reciprocal(best[1]), 0, high)  # and once back and forth
    keep_better(best, best_scale_and_minimum(x, q, weight))
    return best[1], best[2]


def importance_of(importance: np.ndarray, rows: int, block: int) -> np.ndarray:  # (columns,) -> (rows · columns / block, block)
    """Lay the importance of columns beside the blocks of some rows, in units of its mean, and not below FLOOR."""
    mean = importance.mean(dtype=np.float64)
    relative = (importance / mean if mean > 0 else np.ones_like(importance)).astype(np.float32) + np.float32(FLOOR)
    return np.tile(relative.reshape(-1, block), (rows, 1))


def relative_size(x: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:  # as x
    """Divide weights by their root mean square along some axes, and weights that are all 0 by 1. Measures are made of it."""
    mean_square = np.mean(x * x, axis=axis, keepdims=True)
    return x * reciprocal(np.sqrt(mean_square))


def search_table(x: np.ndarray, weight: np.ndarray, table: np.ndarray) -> np.ndarray:  # (weights, ...) twice, (codes,) -> (...)
    """Find a scale for a table of rising integers, not evenly spaced: the largest weight takes an end of it."""
    inverse = reciprocal(peak(x))
    best = np.zeros_like(inverse), np.zeros_like(inverse)
    for end in (table[0], table[-1]):
        for level in LEVELS:
            value = table[nearest_code(x, inverse * np.float32(end * (1 + level / 16)), table)]
            keep_better(best, best_scale(x, value, weight))
    return best[1]


def nearest_code(x: np.ndarray, inverse: np.ndarray, table: np.ndarray) -> np.ndarray:  # (weights, ...), (...) -> as x, integers
    """Find the entry of a table that is nearest to x / scale; in the middle between two the upper one.

    The middles are multiples of 1/2, so it is enough to know between which of these x lies, and that a second table tells.
    """
    steps = np.arange(2 * int(table[0]), 2 * int(table[-1]) + 1)  # in halves
    middles = table[1:].astype(int) + table[:-1]
    codes = np.searchsorted(middles, steps, side="right")
    at = x * (2 * inverse)
    at -= np.float32(steps[0])  # not below zero now, where it is within: so that cutting off digits rounds down
    return codes.take(at.astype(np.intp), mode="clip")
