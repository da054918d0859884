"""Measures: what an error counts, weight by weight, while scales are searched for.

Not every error does the same harm. A layer multiplies column j of a matrix with its input j, so an error there counts as much as
the mean square of that input over some text: its *importance* (llama.cpp calls a file of them an importance matrix, imatrix).
And an error in a large weight counts more, for it stands more often for something that the model needs; how much more is a
guess, made of the relative size r, a weight over the root mean square of its block.

    without importance     Q2_K   |r| + 0.03      Q4_K, Q5_K   |r| + 1      Q3_K, Q6_K, IQ4_NL   r² + 0.4
    with importance        importance · sqrt(8 + r²)      Q6_K   importance: so many bits need no more

From ggml-quants.c, but for three numbers. There 0.03 and 0.4 are 0: its search changes little, and leaves the plain error small
of itself; ours goes further, and would move weights that count for nothing to wherever it serves the others. And 8 is 2 there,
or 1: with 8 the outputs of a layer lost less on some text, and the error in ggml's own measure was no larger.
"""

from collections.abc import Callable

import numpy as np

from minillm.formats.packing import Importance
from minillm.formats.scale_search import reciprocal

FLOOR = 0.01  # of the mean: the least importance of a column, for a text in which its input is 0 is only one text

Measure = Callable[[np.ndarray, Importance], np.ndarray]  # relative sizes, importance laid beside them or None -> as the sizes


def relative_size(x: np.ndarray) -> np.ndarray:  # (n, weights) float32 -> (n, weights)
    """Divide each row by its root mean square."""
    return x * reciprocal(np.sqrt(np.mean(x * x, axis=1, keepdims=True)))


def beside(importance: Importance, rows: int, block: int) -> Importance:  # (columns,) -> (rows · columns / block, block)
    """Lay the importance of columns beside the blocks of some rows, over its mean and not below FLOOR. None stays None."""
    if importance is None:
        return None
    mean = importance.mean(dtype=np.float64)
    relative = (importance / mean if mean > 0 else np.ones_like(importance)).astype(np.float32) + np.float32(FLOOR)
    return np.tile(relative.reshape(-1, block), (rows, 1))


def linear(r: np.ndarray, importance: Importance, more: float = 1) -> np.ndarray:
    """Measure for Q4_K and Q5_K."""
    return np.abs(r) + np.float32(more) if importance is None else by_importance(r, importance)


def almost_linear(r: np.ndarray, importance: Importance) -> np.ndarray:
    """Measure for Q2_K."""
    return linear(r, importance, 0.03)


def quadratic(r: np.ndarray, importance: Importance) -> np.ndarray:
    """Measure for Q3_K and IQ4_NL."""
    return r * r + np.float32(0.4) if importance is None else by_importance(r, importance)


def by_importance_alone(r: np.ndarray, importance: Importance) -> np.ndarray:
    """Measure for Q6_K."""
    return quadratic(r, None) if importance is None else importance


def by_importance(r: np.ndarray, importance: np.ndarray) -> np.ndarray:
    """Measure of all others where there is importance."""
    return importance * np.sqrt(8 + r * r)
