"""A few rows of queries against a tile of keys: keys turned, scores, values added. The inner steps of decode.py.

    numbers        Kᵀ → scratch                 S = Q·Kᵀ                                    acc += P·V
    rows of codes  codes of Kᵀ → scratch        S = scale · (Q·codesᵀ) + minimum · Σ q      V → scratch, acc += P·V

Each step comes in two kinds, one for numbers and one for rows of codes (kv_rows.py); the type of what is stored chooses, while
compiling, so that kernels over numbers hold nothing of the other.
"""

from typing import Any

import numpy as np
from numba import njit
from numba.extending import overload

from minillm.backends.numba_.kv_codes import FP8, INT4, INT8
from minillm.backends.numba_.kv_dots import DIGITS, code_scores, outer_codes
from minillm.backends.numba_.kv_queries import TURNED, TURNED_VECTORS, by_dots
from minillm.backends.numba_.kv_rows import decode_row, four_bits, in_registers, of_rows, read_scales, row_bytes, turn_rows
from minillm.backends.numba_.loops import ADD, FRESH, VECTORS, outer_products, transpose16
from minillm.backends.numba_.online import KEYS, ZERO
from minillm.backends.numba_.pages import ask_for, find, find_all
from minillm.backends.numba_.simd import add, fma, load, mul, splat, store, sum_of

INLINE: Any = {"forceinline": True, "error_model": "numpy"}


@njit(error_model="numpy")
def side_by_side(stored, pages, key, end):  # -> element, keys
    """Find up to 16 keys before `end` that lie side by side."""
    if key >= end:
        return 0, 0
    at, together = find(key, pages, stored)
    return at, min(16, together, end - key)


# --- scores ------------------------------------------------------------------------------------------------------------------


def find_keys(begins, key, count, pages, k):
    """Find where keys `key + j` begin, where rows of codes want to know it."""


@overload(find_keys)
def find_keys_for(begins, key, count, pages, k):
    return find_rows if of_rows(k) else (lambda begins, key, count, pages, k: None)


def find_rows(begins, key, count, pages, k):
    find_all(begins, key, count, pages, k)
    begins[count:] = begins[count - 1]  # sixteen are turned together: what lies beyond the last is some row


@njit
def codes_room(rows, d):  # -> numbers, digits, starts of State
    """numbers: scales and minima of TURNED keys, and of each row Σ q, the step of its digits, sixteen sums of minima. digits and
    starts: kv_dots.py."""
    numbers = np.empty(2 * TURNED + 18 * rows, np.float32)
    return numbers, np.empty(DIGITS * rows * d // 4 + 16, np.uint32), np.empty(DIGITS * rows + 16, np.int32)


def tile_scores(state, q, k, v, key, first, count, g, rows, pages):
    """Compute the scores of keys `key + first` and the `count - 1` after it, up to TURNED, for so many rows of KV head g.

    What lies beyond the last key is anything, and hidden later. Memory is asked for a share of the values of the same tokens.
    """


@overload(tile_scores, jit_options=INLINE)
def tile_scores_for(state, q, k, v, key, first, count, g, rows, pages):
    return scores_of_codes if of_rows(k) else scores_of_numbers


def scores_of_numbers(state, q, k, v, key, first, count, g, rows, pages):
    turn_keys(state, k, v, key, first, count, g, pages, q.shape[2])
    scores(state.s, first, q, g * rows, rows, state.turned, q.shape[2])


def scores_of_codes(state, q, k, v, key, first, count, g, rows, pages):
    d, s, numbers, width, begins = q.shape[2], state.s, state.numbers, row_bytes(q.shape[2], k.format), state.key_begins
    dots, sums, steps = by_dots(d, k.format), 2 * TURNED, 2 * TURNED + q.shape[0] * q.shape[1]
    for j in range(0, count, 16):
        n = min(16, count - j)
        ask_for(v.numbers, state.begins[first + j] + n * g * width, n * width)
        read_scales(k.numbers, begins, first + j, g * k.head, d, k.format, numbers, j, TURNED)
        if dots:
            dot_rows(state, first + j, g * rows, rows, q.shape[0] * q.shape[1], k, g, d)
        else:
            turn_rows(state.turned, j, TURNED, k.numbers, begins, first + j, g * k.head, d, k.format)
    if not dots:
        scores(s, first, q, g * rows, rows, state.turned, d)
    for r in range(g * rows, g * rows + rows):
        for j in range(0, count, 16):
            at, scale = r * KEYS + first + j, mul(load(numbers, j), splat(numbers[steps + r]))
            if four_bits(k.format):
                least = mul(splat(numbers[sums + r]), load(numbers, TURNED + j))
                store(s, at, fma(load(s, at), scale, least))
            else:
                store(s, at, mul(load(s, at), scale))


@njit(error_model="numpy", forceinline=True)
def dot_rows(state, j, first, rows, all_rows, k, g, d):
    """Compute the scores of sixteen keys, from key j of the tile on, in steps of each row."""
    s, digits, starts, begins, apart, half = state.s, state.digits, state.starts, state.key_begins, DIGITS * all_rows, d // 2
    r, last, at, numbers = first, first + rows, g * k.head, k.numbers
    high = half // 4 * apart
    while r < last:
        to, word = r * KEYS + j, DIGITS * r
        if four_bits(k.format):
            if r + 6 <= last:
                code_scores(s, to, KEYS, digits, word, apart, high, starts, word, numbers, begins, j, at, half // 16, INT4, 6)
            elif r + 3 <= last:
                code_scores(s, to, KEYS, digits, word, apart, high, starts, word, numbers, begins, j, at, half // 16, INT4, 3)
            else:
                code_scores(s, to, KEYS, digits, word, apart, high, starts, word, numbers, begins, j, at, half // 16, INT4, 1)
        elif r + 6 <= last:
            code_scores(s, to, KEYS, digits, word, apart, 0, starts, word, numbers, begins, j, at, d // 16, INT8, 6)
        elif r + 3 <= last:
            code_scores(s, to, KEYS, digits, word, apart, 0, starts, word, numbers, begins, j, at, d // 16, INT8, 3)
        else:
            code_scores(s, to, KEYS, digits, word, apart, 0, starts, word, numbers, begins, j, at, d // 16, INT8, 1)
        r += 6 if r + 6 <= last else 3 if r + 3 <= last else 1


@njit(error_model="numpy")
def turn_keys(state, k, v, key, first, count, g, pages, d):
    """Transpose: turned[c, j] = component c of key `key + first + j`. What lies beyond the last is anything, and hidden later.

    Memory is asked for a share of the values of the same tokens.
    """
    to, side = state.turned, state.side
    for j in range(0, count, 16):
        n, (at, together) = min(16, count - j), find(key + first + j, pages, k)
        there = n == 16 and together >= 16
        if not there:
            gather(side, k, key + first + j, n, g, pages, d)
        for c in range(0, d, 16):
            ask_for(v.numbers, state.begins[first + j] + n * (g * d + c), n * 16)
            if there:
                transpose16(to, c * TURNED + j, TURNED, k.numbers, at + g * k.head + c, k.row)
            else:
                transpose16(to, c * TURNED + j, TURNED, side, c, d)


@njit(error_model="numpy")
def gather(side, k, key, count, g, pages, d):
    """Gather up to 16 keys of one head, which lie in several blocks, side by side."""
    for j in range(count):
        at = find(key + j, pages, k)[0] + g * k.head
        for c in range(0, d, 16):
            store(side, j * d + c, load(k.numbers, at + c))


@njit(error_model="numpy")
def scores(s, j, q, first, rows, turned, d):
    """Compute s[r, j …] = q[r] · keys, for the keys that were turned."""
    r, last = first, first + rows
    while r < last:
        at, to = r * d, r * KEYS + j
        if r + 6 <= last:
            outer_products(s, to, KEYS, q, at, d, turned, 0, TURNED, d, 6, TURNED_VECTORS, FRESH)
            r += 6
        elif r + 3 <= last:
            outer_products(s, to, KEYS, q, at, d, turned, 0, TURNED, d, 3, TURNED_VECTORS, FRESH)
            r += 3
        else:
            outer_products(s, to, KEYS, q, at, d, turned, 0, TURNED, d, 1, TURNED_VECTORS, FRESH)
            r += 1


# --- values ------------------------------------------------------------------------------------------------------------------


def add_tile(state, v, g, rows, j, count, d):
    """Add 16 values of KV head g, from token j of the tile on, to so many rows of acc. count: tokens of the tile, of which that
    many less j are there."""


@overload(add_tile, jit_options=INLINE)
def add_tile_for(state, v, g, rows, j, count, d):
    return add_rows if of_rows(v) else add_numbers


def add_numbers(state, v, g, rows, j, count, d):
    add_values(state.acc, g * rows, rows, state.s, j, v.numbers, g * v.head, state.begins[j:], d, min(16, count - j))


def add_rows(state, v, g, rows, j, count, d):
    """Weights take the scales of their tokens; Σ weight · minimum is added to all components when the tile ends."""
    at, acc, s, some, n = g * v.head, state.acc, state.s, state.begins[j:], min(16, count - j)
    if not in_registers(d, v.format):
        for i in range(n):
            decode_row(state.side, i * d, v.numbers, some[i] + at, d, v.format)
        add_values(acc, g * rows, rows, s, j, state.side, 0, d, d, n)
        return
    numbers, apart = state.numbers, TURNED
    read_scales(v.numbers, state.begins, j, at, d, v.format, numbers, 0, apart)
    scale = load(numbers, 0)
    for r in range(g * rows, g * rows + rows):
        weight, sums = load(s, r * KEYS + j), len(numbers) - 16 * (r + 1)
        if four_bits(v.format):
            store(numbers, sums, fma(weight, load(numbers, apart), load(numbers, sums) if j else splat(ZERO)))
            if j + 16 >= count:
                total = splat(sum_of(load(numbers, sums)))
                for c in range(r * d, r * d + d, 16):
                    store(acc, c, add(load(acc, c), total))
        store(s, r * KEYS + j, mul(weight, scale))
    if four_bits(v.format):
        add_int4(acc, g * rows, rows, s, j, v.numbers, at, some, d, n)
    elif v.format == FP8:
        add_fp8(acc, g * rows, rows, s, j, v.numbers, at, some, d, n)
    else:
        add_int8(acc, g * rows, rows, s, j, v.numbers, at, some, d, n)


def adding(kind):
    """Make add_values for codes."""
    wide = max(1, VECTORS // 2) if kind == INT4 else VECTORS  # vectors of bytes, at most

    @njit(error_model="numpy", forceinline=True)
    def add_codes(acc, first, rows, p, j, v, vi, begins, d, count):
        """Add Σ_i p[r, j + i] · codes of row j + i to acc[r], six rows at a time."""
        size = d // 2 if kind == INT4 else d
        r, last, full = first, first + rows, size // (16 * wide) * (16 * wide)
        while r < last:
            together, at = 6 if r + 6 <= last else 3 if r + 3 <= last else 1, r * KEYS + j
            for c in range(0, full, 16 * wide):
                if together == 6:
                    outer_codes(acc, r * d + c, d, p, at, KEYS, v, vi + c, begins, count, size, kind, 6, wide)
                elif together == 3:
                    outer_codes(acc, r * d + c, d, p, at, KEYS, v, vi + c, begins, count, size, kind, 3, wide)
                else:
                    outer_codes(acc, r * d + c, d, p, at, KEYS, v, vi + c, begins, count, size, kind, 1, wide)
            for c in range(full, size, 16):
                if together == 6:
                    outer_codes(acc, r * d + c, d, p, at, KEYS, v, vi + c, begins, count, size, kind, 6, 1)
                elif together == 3:
                    outer_codes(acc, r * d + c, d, p, at, KEYS, v, vi + c, begins, count, size, kind, 3, 1)
                else:
                    outer_codes(acc, r * d + c, d, p, at, KEYS, v, vi + c, begins, count, size, kind, 1, 1)
            r += together

    return add_codes


add_int8, add_int4, add_fp8 = adding(INT8), adding(INT4), adding(FP8)


@njit(error_model="numpy")
def add_values(acc, first, rows, p, j, v, vi, begins, d, count):
    """Add Σ_i p[r, j + i] · value j + i to acc[r], six rows at a time: a value, once loaded, serves them all."""
    full, r, last = d // (16 * VECTORS) * (16 * VECTORS), first, first + rows
    while r < last:
        together = 6 if r + 6 <= last else 3 if r + 3 <= last else 1
        for c in range(0, full, 16 * VECTORS):
            if together == 6:
                outer_products(acc, r * d + c, d, p, r * KEYS + j, KEYS, v, vi + c, begins, count, 6, VECTORS, ADD)
            elif together == 3:
                outer_products(acc, r * d + c, d, p, r * KEYS + j, KEYS, v, vi + c, begins, count, 3, VECTORS, ADD)
            else:
                outer_products(acc, r * d + c, d, p, r * KEYS + j, KEYS, v, vi + c, begins, count, 1, VECTORS, ADD)
        for c in range(full, d, 16):
            if together == 6:
                outer_products(acc, r * d + c, d, p, r * KEYS + j, KEYS, v, vi + c, begins, count, 6, 1, ADD)
            elif together == 3:
                outer_products(acc, r * d + c, d, p, r * KEYS + j, KEYS, v, vi + c, begins, count, 3, 1, ADD)
            else:
                outer_products(acc, r * d + c, d, p, r * KEYS + j, KEYS, v, vi + c, begins, count, 1, 1, ADD)
        r += together
