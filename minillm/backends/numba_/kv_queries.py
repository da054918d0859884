"""What rows of codes want to know of the queries, once for all their keys: sums, and whole numbers in three digits (kv_dots.py).

    S = scale · (Q·codesᵀ) + minimum · Σ q        Σ q of each row; and where codes are met as whole numbers, q = step · digits
"""

import numpy as np
from numba import njit
from numba.extending import overload

from minillm.backends.numba_.kv_codes import FP8, INT8
from minillm.backends.numba_.kv_dots import DIGITS, DOTS, LARGEST_WHOLE, put_digits, put_starts
from minillm.backends.numba_.kv_rows import in_registers, of_rows
from minillm.backends.numba_.loops import VECTORS
from minillm.backends.numba_.online import ZERO
from minillm.backends.numba_.simd import add, load, max_of, maximum, splat, sub, sum_of

ONE, TINY = np.float32(1), np.float32(1e-30)  # a query below is nothing
TURNED_VECTORS = min(2, VECTORS)  # keys that are turned together, in registers: six rows of scores fill 12 of 32
TURNED = 16 * TURNED_VECTORS


@njit
def by_dots(d, format):
    """Whether keys are read as whole numbers."""
    return DOTS and format != FP8 and in_registers(d, format)


def prepare(k, q, state):
    """Compute what rows of codes want to know of the queries."""


@overload(prepare)
def prepare_for(k, q, state):
    return prepare_rows if of_rows(k) else (lambda k, q, state: None)


def prepare_rows(k, q, state):
    rows, d, numbers, digits, starts = q.shape[0] * q.shape[1], q.shape[2], state.numbers, state.digits, state.starts
    apart, dots, sums, steps = DIGITS * rows, by_dots(d, k.format), 2 * TURNED, 2 * TURNED + rows
    for r in range(rows):
        total, most = splat(ZERO), splat(ZERO)
        for c in range(r * d, r * d + d, 16):
            some = load(q, c)
            total, most = add(total, some), maximum(maximum(some, sub(splat(ZERO), some)), most)
        numbers[sums + r], top = sum_of(total), max_of(most)
        numbers[steps + r] = top / LARGEST_WHOLE if dots else ONE
        if dots:
            factor = LARGEST_WHOLE / top if top > TINY else ZERO
            for c in range(0, d, 16):
                put_digits(digits, c // 4 * apart + DIGITS * r, apart, load(q, r * d + c), factor)
    if dots:
        starts[:] = 0
        if k.format == INT8:
            for i in range(0, apart, 16):
                put_starts(starts, i, digits, i, apart, d // 4)
