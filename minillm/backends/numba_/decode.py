"""Decode: one query, or a few, against a long cache. The work is reading it, so every byte is read once, by some core.

One row of scores has no matrix product in it: each key takes part in one dot product, each value in one multiply-add,
and then both are done with. The time is the time of the bytes. So the cache is cut along the tokens into splits; a split
is a contiguous stretch of memory that one core reads from end to end, all heads in turn, for all query heads and queries:

    for each split of the keys, a task of the threads:
        for each tile of 64 keys in it:
            S = Q·Kᵀ      dots16, sixteen keys at a time, read where they lie
            P, m, l, acc  online softmax
            acc += P·V    values read where they lie

and at the end the splits' partial results are merged by their log-sum-exp, as in attention/split_kv.py. Where the cuts
lie depends on the number of keys alone: results do not depend on the number of threads.

Dao, Haziza, Massa, Sizov 2023, "Flash-Decoding for long-context inference".
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numba.extending import register_jitable

from minillm.backends.numba_.atomics import job
from minillm.backends.numba_.compiled import kernel
from minillm.backends.numba_.loops import ADD, ADD_AHEAD, AHEAD, FRESH, VECTORS, dots16, outer_products
from minillm.backends.numba_.online import KEYS, LN2, LOG2E, MINUS_INF, ZERO, hide, online_softmax
from minillm.backends.numba_.pages import all_there, find, find_all
from minillm.backends.numba_.simd import exp2, fma, load, mul, splat, store, sum_of
from minillm.backends.numba_.tasks import complete, new_board, next_task, open_region, worker
from minillm.backends.numba_.team import launch


@register_jitable
def split_keys(n_k):  # -> keys of a split
    """Choose how to cut the keys: 32 pieces or so, enough to share out, few enough to merge. By the number of keys alone, so that
    a sequence is cut alike, and answered alike to the bit, alone and in a batch."""
    return max(KEYS, -(-n_k // 32) // KEYS * KEYS)


class State(NamedTuple):
    """The workspace of one thread on one split, as flat arrays. rows: queries × heads."""

    acc: np.ndarray  # rows × d, unfinished
    m: np.ndarray  # rows
    l: np.ndarray  # rows × 16
    s: np.ndarray  # rows × KEYS scores
    side: np.ndarray  # 16 × d, for keys that lie apart
    begins: np.ndarray  # where values begin


@njit
def room_for(splits, rows, d):  # -> acc, m, l of State, for each split
    m, l = np.empty((splits, rows), np.float32), np.empty((splits, rows * 16), np.float32)
    return np.empty((splits, rows * d), np.float32), m, l


@njit
def decode_part(number, threads, board, q, k, v, pages, mask, span, acc, m, l):
    """Attend to splits of the keys, each a task."""
    w, (start, stop, size), (n_q, heads, d) = worker(number, threads, board), span, q.shape
    s, side, begins = np.empty(n_q * heads * KEYS, np.float32), np.empty(16 * d, np.float32), np.empty(KEYS + AHEAD, np.int64)
    open_region(w, len(acc))
    while True:
        split = next_task(w)
        if split < 0:
            return
        first, state = start + split * size, State(acc[split], m[split], l[split], s, side, begins)
        partial(first, min(first + size, stop), q, k, v, pages, mask, state)
        complete(w, split)


@kernel()
def decode(words, threads, q, k, v, pages, mask, span):
    """Compute output and log-sum-exp over the keys of span = (start, stop, size): start … stop - 1, in splits of `size`.

    q: (n_q, heads, d), d a multiple of 16. k, v: Stored. pages: Pages. mask: MaskRule. Returns out, lse, and whether all is well:
    the table names blocks that there are, and out is finite.
    """
    (n_q, heads, d), (start, stop, size) = q.shape, span
    rows, splits, scale = n_q * heads, -(-(stop - start) // size), LOG2E / np.float32(math.sqrt(d))
    out, lse, scaled = np.empty(q.shape, np.float32), np.empty((n_q, heads), np.float32), np.empty(q.shape, np.float32)
    if not all_there(pages):
        return out, lse, False
    acc, m, l = room_for(splits, rows, d)
    for i in range(0, rows * d, 16):
        store(scaled, i, mul(load(q, i), splat(scale)))
    launch(words, job(decode_part, (threads, new_board(threads, splits), scaled, k, v, pages, mask, span, acc, m, l)))
    merge(acc, m, l, out, lse)
    return out, lse, all_finite(out)


@njit
def all_finite(x):
    """Whether all of x, in whole registers, is finite: 0 times anything finite stays 0."""
    poison = splat(ZERO)
    for i in range(0, x.size, 16):
        poison = fma(load(x, i), splat(ZERO), poison)
    return sum_of(poison) == ZERO


@njit(error_model="numpy")
def partial(first, last, q, k, v, pages, mask, state):
    """Attend for all queries and heads to keys first … last - 1: unfinished acc, m and l."""
    (n_q, heads, d), final = q.shape, pages.keys
    acc, m, l, s, side, begins = state.acc, state.m, state.l, state.s, state.side, state.begins
    group, q = heads // k.heads, q.reshape(-1)
    acc[:], l[:], m[:] = ZERO, ZERO, MINUS_INF
    for key in range(first, last, KEYS):
        count = min(KEYS, last - key)
        for j in range(0, count, 16):
            n = min(16, count - j)
            at, together = find(key + j, pages, k)
            later = find(min(key + j + AHEAD, final - 1), pages, k)[0]
            for g in range(k.heads):
                heads_of_g, shift = (g * group, (g + 1) * group, heads), g * k.head
                if together >= n:
                    scores(s, j, q, n_q, heads_of_g, k.numbers, at + shift, k.row, d, n, later + shift)
                else:
                    gather(side, k, key + j, n, g, pages, d)
                    scores(s, j, q, n_q, heads_of_g, side, 0, d, d, n, 0)
        for r in range(n_q * heads):
            position = mask.offset + r // heads
            stop = min(last, position + 1) if mask.causal else last
            hide(s, r * KEYS, position - mask.window + 1 - key, stop - key)
            online_softmax(s, r * KEYS, m, l, acc, r, d)
        find_all(begins, key, min(count + AHEAD, final - key), pages, v)
        for j in range(min(count + AHEAD, final - key), count + AHEAD):
            begins[j] = begins[0]
        for g in range(k.heads):
            for r in range(g * group, n_q * heads, heads):
                add_values(acc, r, s, group, v.numbers, g * v.head, begins, d, count)


@njit(error_model="numpy")
def gather(side, k, key, count, g, pages, d):
    """Gather up to 16 keys of one head, which lie in several blocks, side by side."""
    for j in range(count):
        at = find(key + j, pages, k)[0] + g * k.head
        for c in range(0, d, 16):
            store(side, j * d + c, load(k.numbers, at + c))


@njit(error_model="numpy")
def scores(s, j, q, n_q, heads_of_g, k, at, row, d, count, later):
    """Compute s[r, j …] = q[r] · key, for up to 16 keys side by side and the rows of the heads that read them.

    Memory is asked for the keys from element `later` on, once for all rows.
    """
    first, last, heads = heads_of_g
    for h in range(first, last):
        for r in range(h, n_q * heads, heads):
            if count < 16:
                for i in range(count):
                    total = splat(ZERO)
                    for c in range(0, d, 16):
                        total = fma(load(q, r * d + c), load(k, at + i * row + c), total)
                    s[r * KEYS + j + i] = sum_of(total)
            elif r == first and later:
                dots16(s, r * KEYS + j, q, r * d, k, at, row, d // 16, later, ADD_AHEAD)
            else:
                dots16(s, r * KEYS + j, q, r * d, k, at, row, d // 16, 0, FRESH)


@njit(error_model="numpy")
def add_values(acc, first, p, rows, v, vi, begins, d, count):
    """Add Σ_j p[r, j] · value j to acc[r] for the rows of a group, three at a time: a value, once loaded, serves them all."""
    full = d // (16 * VECTORS) * (16 * VECTORS)
    r = first
    while r < first + rows:
        three = r + 3 <= first + rows
        for c in range(0, full, 16 * VECTORS):
            if three and r == first:
                outer_products(acc, r * d + c, d, p, r * KEYS, KEYS, v, vi + c, begins, count, 3, VECTORS, ADD_AHEAD)
            elif three:
                outer_products(acc, r * d + c, d, p, r * KEYS, KEYS, v, vi + c, begins, count, 3, VECTORS, ADD)
            else:
                outer_products(acc, r * d + c, d, p, r * KEYS, KEYS, v, vi + c, begins, count, 1, VECTORS, ADD)
        for c in range(full, d, 16):
            if three:
                outer_products(acc, r * d + c, d, p, r * KEYS, KEYS, v, vi + c, begins, count, 3, 1, ADD)
            else:
                outer_products(acc, r * d + c, d, p, r * KEYS, KEYS, v, vi + c, begins, count, 1, 1, ADD)
        r += 3 if three else 1


@njit(error_model="numpy")
def merge(acc, m, l, out, lse):
    """Merge the splits' results: each counts by 2^(m_split - m), with m the largest of all."""
    n_q, heads, d = out.shape
    for r in range(n_q * heads):
        top = MINUS_INF
        for split in range(len(m)):
            top = max(top, m[split, r])
        top = top if top > MINUS_INF else ZERO  # -inf - -inf would not be a number
        row, total = out[r // heads, r % heads], splat(ZERO)
        row[:] = ZERO
        for split in range(len(m)):
            weight = exp2(splat(m[split, r] - top))
            total = fma(weight, load(l[split], 16 * r), total)
            for c in range(0, d, 16):
                store(row, c, fma(weight, load(acc[split], r * d + c), load(row, c)))
        l_all = sum_of(total)
        if l_all == ZERO:  # no key was seen
            lse[r // heads, r % heads] = MINUS_INF
        else:
            row /= l_all
            lse[r // heads, r % heads] = (top + np.float32(math.log2(l_all))) * LN2
