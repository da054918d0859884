"""Two exercises in plain NumPy; the second builds on the first."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class Shape:
    """What a grader must let a submission have."""

    n: int = 1


class Pair(NamedTuple):
    """And this."""

    a: int


def scores(q, k):  # (n, d), (m, d) -> (n, m)
    """Scaled dot products of every query with every key."""
    # BEGIN SOLUTION ex=91.1
    return q @ k.T / np.sqrt(q.shape[-1])
    # END SOLUTION


def attend(q, k, v):  # (n, d), (m, d), (m, e) -> (n, e)
    """Weighted mean of the values, by the softmax of the scores."""
    s = scores(q, k)
    # BEGIN SOLUTION ex=91.2
    weights = np.exp(s - s.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)  # every row sums to 1
    # END SOLUTION
    return weights @ v
