"""The online softmax of attention/online_softmax.py, sixteen scores at a time, for both kernels.

    m' = max(m, max S)    P = 2^(S - m')    l' = l · 2^(m - m') + Σ P    acc' = acc · 2^(m - m') + P·V

Scores are in units of log 2: the caller scales Q by log2(e)/√d, because 2^x is cheaper than e^x. acc and l are
touched only where m rises, which it seldom does after the first tiles. l is kept as sixteen sums, one a lane: adding up
across lanes is slow, and once at the end is enough.

Milakov and Gimelshein 2018, arXiv:1805.02867.
"""

import math

import numpy as np
from numba import njit

from minillm.backends.numba_.simd import add, exp2, load, max_of, maximum, mul, splat, store

KEYS = 64  # keys in a tile: four vectors of scores a row
LN2, LOG2E = np.float32(math.log(2)), np.float32(math.log2(math.e))
ZERO, MINUS_INF = np.float32(0), np.float32(-np.inf)


@njit(error_model="numpy")
def padded(d):
    """Round d up to whole vectors."""
    return -(-d // 16) * 16


@njit(error_model="numpy")
def hide(s, at, start, stop):
    """Set scores of keys outside start … stop - 1 to -inf."""
    for j in range(0, min(start, KEYS)):
        s[at + j] = MINUS_INF
    for j in range(max(0, stop), KEYS):
        s[at + j] = MINUS_INF


@njit(error_model="numpy")
def online_softmax(s, at, m, l, acc, r, wide):
    """Fold 64 scores of row r into m and l (sixteen partial sums), shrink acc where m rose, and leave P in place of S."""
    s0, s1, s2, s3 = load(s, at), load(s, at + 16), load(s, at + 32), load(s, at + 48)
    top = max_of(maximum(maximum(s0, s1), maximum(s2, s3)))
    if top > m[r]:
        shrink = exp2(splat(m[r] - top))
        m[r] = top
        store(l, 16 * r, mul(load(l, 16 * r), shrink))
        for c in range(0, wide, 16):
            store(acc, r * wide + c, mul(load(acc, r * wide + c), shrink))
    minus_m = splat(-m[r] if m[r] > MINUS_INF else ZERO)  # -inf - -inf would not be a number
    p0, p1 = exp2(add(s0, minus_m)), exp2(add(s1, minus_m))
    p2, p3 = exp2(add(s2, minus_m)), exp2(add(s3, minus_m))
    store(s, at, p0)
    store(s, at + 16, p1)
    store(s, at + 32, p2)
    store(s, at + 48, p3)
    store(l, 16 * r, add(load(l, 16 * r), add(add(p0, p1), add(p2, p3))))
