"""Decode: one query, or a few, against a long cache. The work is reading it, so every byte is read once, by some core.

One row of scores has no matrix product in it: each key takes part in one dot product, each value in one multiply-add,
and then both are done with. The time is the time of the bytes. So the cache is cut along the tokens into splits; a split
is a contiguous stretch of memory that one core reads from end to end, all heads in turn, for all query heads and queries:

    for each split of the keys, drawn by the threads from one list:
        for each tile of 64 keys in it:
            S = Q·Kᵀ      dots16, sixteen keys at a time, read where they lie
            P, m, l, acc  online softmax
            acc += P·V    values read where they lie

and at the end the splits' partial results are merged by their log-sum-exp, as in attention/split_kv.py. Where the cuts
lie depends on the number of keys alone: results do not depend on the number of threads.

Dao, Haziza, Massa, Sizov 2023, "Flash-Decoding for long-context inference".
"""

import math

import numpy as np
from numba import njit, prange

from minillm.backends.numba_.loops import ADD, VECTORS, dots16, outer_products
from minillm.backends.numba_.online import KEYS, LN2, MINUS_INF, ZERO, hide, online_softmax
from minillm.backends.numba_.simd import exp2, fma, load, splat, store, sum_of, take_ticket


@njit(parallel=True, cache=True, error_model="numpy")
def decode(threads, tickets, q, k, k_strides, v, v_strides, kv_heads, mask, span, acc, m, l, s, out, lse):
    """Fill out and lse from the keys that span = (start, stop, size) says: start … stop - 1, in splits of `size`.

    q: (n_q, heads, d) scaled by log2(e)/√d, d a multiple of 16. k, v, mask, tickets: as in prefill. acc: (splits,
    n_q·heads·d), m: (splits, n_q·heads), l: (splits, n_q·heads·16), s: (threads, n_q·heads·64): the memory to work in.
    """
    start, stop, size = span
    for t in prange(threads):
        while True:
            split = take_ticket(tickets)
            if split >= len(acc):
                break
            first = start + split * size
            last, state = min(first + size, stop), (acc[split], m[split], l[split], s[t])
            partial(first, last, q, (k, k_strides), (v, v_strides), kv_heads, mask, state)
    merge(acc, m, l, out, lse)


@njit(error_model="numpy")
def partial(first, last, q, keys, values, kv_heads, mask, state):
    """All queries and heads against keys first … last - 1: unfinished acc, m and l."""
    (k, (k_row, k_head)), (v, (v_row, v_head)), (offset, window, causal) = keys, values, mask
    (n_q, heads, d), (acc, m, l, s) = q.shape, state
    group, q = heads // kv_heads, q.reshape(-1)
    acc[:], l[:], m[:] = ZERO, ZERO, MINUS_INF
    for key in range(first, last, KEYS):
        count = min(KEYS, last - key)
        for j in range(0, count, 16):
            for g in range(kv_heads):
                for h in range(g * group, (g + 1) * group):
                    for r in range(h, n_q * heads, heads):
                        scores(s, r * KEYS + j, q, r * d, k, (key + j) * k_row + g * k_head, k_row, d, min(16, count - j))
        for r in range(n_q * heads):
            position = offset + r // heads
            stop = min(last, position + 1) if causal else last
            hide(s, r * KEYS, position - window + 1 - key, stop - key)
            online_softmax(s, r * KEYS, m, l, acc, r, d)
        for g in range(kv_heads):
            for r in range(g * group, n_q * heads, heads):
                add_values(acc, r, s, group, v, key * v_row + g * v_head, v_row, d, count)


@njit(error_model="numpy")
def scores(s, si, q, qi, k, ki, k_row, d, count):
    """s[si + j] = q · key j, for up to 16 keys."""
    if count == 16:
        dots16(s, si, q, qi, k, ki, k_row, d // 16)
        return
    for j in range(count):
        total = splat(ZERO)
        for c in range(0, d, 16):
            total = fma(load(q, qi + c), load(k, ki + j * k_row + c), total)
        s[si + j] = sum_of(total)


@njit(error_model="numpy")
def add_values(acc, first, p, rows, v, vi, v_row, d, count):
    """acc[r] += Σ_j p[r, j] · value j for the rows of a group, three at a time: a value, once loaded, serves them all."""
    full = d // (16 * VECTORS) * (16 * VECTORS)
    r = first
    while r < first + rows:
        three = r + 3 <= first + rows
        for c in range(0, full, 16 * VECTORS):
            if three:
                outer_products(acc, r * d + c, d, p, r * KEYS, KEYS, v, vi + c, v_row, count, 3, VECTORS, ADD)
            else:
                outer_products(acc, r * d + c, d, p, r * KEYS, KEYS, v, vi + c, v_row, count, 1, VECTORS, ADD)
        for c in range(full, d, 16):
            if three:
                outer_products(acc, r * d + c, d, p, r * KEYS, KEYS, v, vi + c, v_row, count, 3, 1, ADD)
            else:
                outer_products(acc, r * d + c, d, p, r * KEYS, KEYS, v, vi + c, v_row, count, 1, 1, ADD)
        r += 3 if three else 1


@njit(error_model="numpy")
def merge(acc, m, l, out, lse):
    """The splits' results into one: each counts by 2^(m_split - m), with m the largest of all."""
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
        if l_all == ZERO:  # nobody saw a key
            lse[r // heads, r % heads] = MINUS_INF
        else:
            row /= l_all
            lse[r // heads, r % heads] = (top + np.float32(math.log2(l_all))) * LN2
