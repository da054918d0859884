"""A few rows of queries against a tile of keys: keys turned, scores, values added. The inner steps of decode.py.

    numbers        Kᵀ → scratch                 S = Q·Kᵀ                                    acc += P·V
    rows of codes  codes of Kᵀ → scratch        S = scale · (Q·codesᵀ) + minimum · Σ q      V → scratch, acc += P·V

Each step comes in two kinds, one for numbers and one for rows of codes (kv_rows.py); the type of what is stored chooses, while
compiling, so that kernels over numbers hold nothing of the other.
"""

import numpy as np
from numba import njit
from numba.extending import overload

from minillm.backends.numba_.kv_rows import decode_row, four_bits, of_rows, row_bytes, turn_rows
from minillm.backends.numba_.loops import ADD, FRESH, VECTORS, outer_products, transpose16
from minillm.backends.numba_.online import KEYS, ZERO
from minillm.backends.numba_.pages import ask_for, find, find_all
from minillm.backends.numba_.simd import add, fma, load, mul, splat, store, sum_of

TURNED_VECTORS = min(2, VECTORS)  # keys that are turned together, in registers: six rows of scores fill 12 of 32
TURNED = 16 * TURNED_VECTORS


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


def sum_queries(k, q, numbers):
    """Sum up the components of each query: numbers[2 · TURNED + r] = Σ q[r], where rows of codes want to know it."""


@overload(sum_queries)
def sum_queries_for(k, q, numbers):
    return sum_rows if of_rows(k) else (lambda k, q, numbers: None)


def sum_rows(k, q, numbers):
    d = q.shape[2]
    for r in range(q.shape[0] * q.shape[1]):
        total = splat(ZERO)
        for c in range(r * d, r * d + d, 16):
            total = add(total, load(q, c))
        numbers[2 * TURNED + r] = sum_of(total)


def tile_scores(state, q, k, v, key, first, count, g, rows, pages):
    """Compute the scores of keys `key + first` and the `count - 1` after it, up to TURNED, for so many rows of KV head g.

    What lies beyond the last key is anything, and hidden later. Memory is asked for a share of the values of the same tokens.
    """


@overload(tile_scores)
def tile_scores_for(state, q, k, v, key, first, count, g, rows, pages):
    return scores_of_codes if of_rows(k) else scores_of_numbers


def scores_of_numbers(state, q, k, v, key, first, count, g, rows, pages):
    turn_keys(state, k, v, key, first, count, g, pages, q.shape[2])
    scores(state.s, first, q, g * rows, rows, state.turned, q.shape[2])


def scores_of_codes(state, q, k, v, key, first, count, g, rows, pages):
    d, s, numbers, width = q.shape[2], state.s, state.numbers, row_bytes(q.shape[2], k.format)
    for j in range(0, count, 16):
        n = min(16, count - j)
        ask_for(v.numbers, state.begins[first + j] + n * g * width, n * width)
        turn_rows(state.turned, j, TURNED, k.numbers, state.key_begins, first + j, g * k.head, d, k.format, numbers, j, TURNED)
    scores(s, first, q, g * rows, rows, state.turned, d)
    for r in range(g * rows, g * rows + rows):
        for j in range(0, TURNED, 16):
            at = r * KEYS + first + j
            if four_bits(k.format):
                least = mul(splat(numbers[2 * TURNED + r]), load(numbers, TURNED + j))
                store(s, at, fma(load(s, at), load(numbers, j), least))
            else:
                store(s, at, mul(load(s, at), load(numbers, j)))


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
    """Add up to 16 values of KV head g, from token j of the tile on, to so many rows of acc."""


@overload(add_tile)
def add_tile_for(state, v, g, rows, j, count, d):
    return add_rows if of_rows(v) else add_numbers


def add_numbers(state, v, g, rows, j, count, d):
    add_values(state.acc, g * rows, rows, state.s, j, v.numbers, g * v.head, state.begins[j:], d, count)


def add_rows(state, v, g, rows, j, count, d):
    for i in range(count):
        decode_row(state.side, i * d, v.numbers, state.begins[j + i] + g * v.head, d, v.format)
    add_values(state.acc, g * rows, rows, state.s, j, state.side, 0, d, d, count)


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
