"""The search for scales: which integers, times which scale, come closest to a group of weights?

Two halves of the question have an answer at once. Given a scale, the best integers are the nearest ones. Given the integers,
the best scale is a least-squares fit, in closed form. What is left is where to begin, since going back and forth between the
two stops in the nearest dip of a jagged curve: so begin at several scales around the obvious one, which maps the largest
weight to the largest integer, and keep the best.

    error = Σ w (x - s·q)²           for a scale s: q* = round(x / s)           for integers q: s* = Σ w x q / Σ w q²

An error counts more in some weights than in others: w, see `measures`. Arrays have the weights of a group along the first axis
and groups along the others: a sum over each group then adds whole rows of memory, and no temporary leaves the processor's cache.

Source of beginning at several scales: ggml's quants (`make_qx_quants`, `make_qkx3_quants`).
"""

from collections.abc import Callable, Iterable

import numpy as np

from minillm.formats.packing import as_half

LEVELS = (-0.8, -0.4, 0.0, 0.4, 0.8)  # begin where the largest weight falls this far inside or outside of the largest integer
MORE_LEVELS = (-1.6, -1.2, *LEVELS, 1.2, 1.6)  # of a search that nothing follows
OUTWEIGHS = 0.8  # of the sum of squares of a group: its largest weight alone
FINE_LEVELS = tuple(i / 10 for i in range(-20, 21))  # of a group that one weight outweighs

Found = tuple[np.ndarray, ...]  # an error, and what it is the error of, for each group


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


def error_of(x: np.ndarray, fitted: np.ndarray, weight: np.ndarray) -> np.ndarray:  # (weights, ...) three times -> (...)
    """Sum the squared errors over each group, each times its weight. Overwrites `fitted`."""
    fitted -= x
    return np.einsum("i...,i...,i...->...", weight, fitted, fitted)


def keep_better(best: Found, found: Found) -> None:
    """Overwrite what is best so far where something has a smaller error. In both tuples the errors come first."""
    better = found[0] < best[0]
    for old, new in zip(best, found, strict=True):
        np.copyto(old, new, where=better)


def outweighed(x: np.ndarray, share: float) -> np.ndarray:  # (weights, n) or (weights, groups, n) -> (m,) numbers of blocks
    """Find the blocks of which one weight alone holds more than `share` of the sum of squares."""
    square, within = x * x, tuple(range(x.ndim - 1))
    return np.flatnonzero(square.max(axis=within) > np.float32(share) * square.sum(axis=within))


def search_again(
    best: Found, x: np.ndarray, weight: np.ndarray, share: float, search: Callable[[np.ndarray, np.ndarray], Found]
) -> None:
    """Search longer in the blocks of which one weight outweighs all others, and keep what is better.

    Steps are wide there, and the many small weights share few integers: errors differ much between one dip of the curve and the
    next. Such blocks are rare, so they may take more time.
    """
    at = outweighed(x, share)
    if at.size:
        found = tuple(old[..., at] for old in best)
        keep_better(found, search(x[..., at], weight[..., at]))
        for old, new in zip(best, found, strict=True):
            old[..., at] = new


def best_scale(x: np.ndarray, q: np.ndarray, weight: np.ndarray, last: bool = False) -> Found:  # (weights, ...) -> two (...)
    """Fit x ≈ scale · q by least squares in each group, an error squared and times `weight`: Σ weight · (x - scale · q)².

    Returns the error of each group and its scale. Where all q are 0, or all weights, the scale is 0. last: this scale will be
    stored, so round it to float16, and count the error that then remains.
    """
    # BEGIN SOLUTION ex=09.6
    wq = weight * q
    fit, size = dot(wq, x), dot(wq, q)
    scale = ratio(fit, size)
    # END SOLUTION
    scale = as_half(scale) if last else scale
    return error_of(x, scale * q, weight), scale


def peak(x: np.ndarray) -> np.ndarray:  # (weights, ...) -> (...)
    """Find the weight of the largest magnitude in each group, with its sign."""
    low, high = x.min(axis=0), x.max(axis=0)
    return np.where(-low > high, low, high)


def search_scale(  # (weights, ...), (weights, ...) -> (...)
    x: np.ndarray, weight: np.ndarray, low: int, high: int, last: bool = False
) -> np.ndarray:
    """Find a scale for integers from low to high, low below zero and larger: it takes the largest weight, and its sign."""

    def search(x: np.ndarray, weight: np.ndarray, levels: Iterable[float]) -> Found:
        inverse = reciprocal(peak(x))
        best = np.full_like(inverse, np.inf), np.zeros_like(inverse)
        for level in levels:
            q = nearest(x, inverse * np.float32(low - level), low, high)
            keep_better(best, best_scale(x, q, weight, last))
        return best

    best = search(x, weight, MORE_LEVELS if last else LEVELS)
    if last:
        search_again(best, x, weight, OUTWEIGHS, lambda x, weight: search(x, weight, FINE_LEVELS))
    return best[1]


def best_scale_and_minimum(  # (weights, ...) three times -> three (...)
    x: np.ndarray, q: np.ndarray, weight: np.ndarray, last: bool = False
) -> Found:
    """Fit x ≈ scale · q - minimum by least squares, neither of them below zero. Returns error, scale, minimum.

    The normal equations, with W = Σ weight and so on:   scale · QQ - minimum · Q = QX   and   scale · Q - minimum · W = X.
    """
    wq = weight * q
    W, X, Q = weight.sum(axis=0), dot(weight, x), wq.sum(axis=0)
    QQ, QX = dot(wq, q), dot(wq, x)
    D = W * QQ - Q * Q
    scale, minimum = ratio(W * QX - Q * X, D), ratio(Q * QX - QQ * X, D)
    good = (D > 1e-6 * W * QQ) & (scale > 0) & (minimum >= 0)  # D is noise where all q are equal: then one of the two
    scale = np.where(good, scale, np.maximum(ratio(QX, QQ), 0))
    minimum = np.where(good, minimum, np.where(QQ > 0, 0, np.maximum(ratio(-X, W), 0)))
    if last:
        scale, minimum = as_half(scale), as_half(minimum)
    return error_of(x + minimum, scale * q, weight), scale, minimum


def search_scale_and_minimum(  # (weights, ...), (weights, ...) -> (...), (...)
    x: np.ndarray, weight: np.ndarray, high: int, last: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Find scale and minimum for integers from 0 to high: x ≈ scale · q - minimum."""

    def search(x: np.ndarray, weight: np.ndarray, levels: Iterable[float], shifts: Iterable[float], turns: int) -> Found:
        lowest = np.minimum(x.min(axis=0), np.float32(0))
        inverse = reciprocal(x.max(axis=0) - lowest)
        best = best_scale_and_minimum(x, np.zeros_like(x), weight, last)  # if all are equal, and below zero, that is it
        above = x - lowest
        for level in levels:
            for shift in shifts:  # the lowest weight falls so far above 0
                per_step = inverse * np.float32(high + level)
                q = nearest(above + np.float32(shift) * reciprocal(per_step), per_step, 0, high)
                keep_better(best, best_scale_and_minimum(x, q, weight, last))
        for _ in range(turns):
            q = nearest(x + best[2], reciprocal(best[1]), 0, high)  # and back and forth
            keep_better(best, best_scale_and_minimum(x, q, weight, last))
        return best

    best = search(x, weight, MORE_LEVELS if last else LEVELS, (0,), 1)
    if last:
        search_again(best, x, weight, OUTWEIGHS, lambda x, weight: search(x, weight, FINE_LEVELS, (0, 0.25, 0.5, 0.75), 4))
    return best[1], best[2]
