"""Prefill: FlashAttention-2 on the cores of a CPU.

The loops are those of attention/flash.py: a tile of queries stays, tiles of keys and values pass by, and the online
softmax (m, l, acc) carries what must survive. What is new is where things lie. A tile of keys is turned and a tile of
values copied into scratch that fits the nearest cache, once, and all query rows of the tile use them there. Scores exist
for six rows at a time: made, turned into weights, used, and overwritten before they could leave that cache.

    for each (tile of queries, KV head), drawn by the threads from one list, longest first:
        for each tile of 64 keys that is seen:    Kᵀ, V → scratch
            for each block of 6 rows:             S = Q·Kᵀ      outer_products, 24 vectors of sums in registers
                                                  P = 2^(S - m) m, l, acc updated as they go
                                                  acc += P·V    outer_products

A row is a query of one head, and the heads that share a KV head lie in one tile, so its keys are turned once for all of
them. Scores are in units of log 2 (Q is scaled by log2(e)/√d beforehand), because 2^x is cheaper than e^x. Every row
meets the same keys in the same order whatever thread has it: results do not depend on the number of threads.

Dao 2023, arXiv:2307.08691.
"""

import math

import numpy as np
from numba import njit, prange

from minillm.backends.numba_.compiled import kernel
from minillm.backends.numba_.loops import ADD, FRESH, VECTORS, outer_products, transpose16
from minillm.backends.numba_.online import KEYS, LN2, LOG2E, MINUS_INF, ZERO, hide, online_softmax, padded
from minillm.backends.numba_.pages import all_there, find
from minillm.backends.numba_.simd import fma, load, number, splat, store, sum_of, take_ticket

BLOCK = 6  # rows at a time: 6 × 4 vectors of sums fill 24 of 32 registers
TILE_ROWS = 192  # rows in a tile of queries: enough to make turning the keys cheap, and Q and acc still fit the second cache


def queries_per_tile(group):  # query heads that share a KV head -> queries
    return max(1, TILE_ROWS // group)


def scratch_shapes(queries, group, d):  # -> what one thread works in: Q, acc, l, m, Kᵀ, V, S, as flat arrays
    rows = -(-queries * group // BLOCK) * BLOCK
    return rows * d, rows * padded(d), rows * 16, rows, d * KEYS, KEYS * padded(d), BLOCK * KEYS


@kernel(parallel=True)
def prefill(
    threads,
    tickets,
    queries,
    q,
    k,
    k_strides,
    v,
    v_strides,
    kv_shape,
    pages,
    mask,
    out,
    lse,
    bad,
    q_rows,
    acc,
    l,
    m,
    k_turned,
    v_copy,
    s,
):
    """Fill out and lse, in tiles of so many queries; bad[t] is set where thread t met a number that is not finite.

    q: (n_q, heads, d). k, v: flat memory, with strides and pages as `pages.find` takes them; kv_shape: (n_k, kv_heads).
    mask: (offset, window, causal). tickets: int64 [0], the next piece of work. The last seven: a row of scratch for each
    thread, as scratch_shapes says. Where the table names a block that is not there, nothing is done and bad[0] set.
    """
    if not all_there(pages):
        bad[0] = True
        return
    for t in prange(threads):
        scratch = q_rows[t], acc[t], l[t], m[t], k_turned[t], v_copy[t], s[t]
        bad[t] = work(tickets, queries, q, (k, k_strides), (v, v_strides), kv_shape, pages, mask, out, lse, scratch)


@njit(error_model="numpy")
def work(tickets, queries, q, keys, values, kv_shape, pages, mask, out, lse, scratch):
    """One thread: draw tiles until there are no more. The last queries see most keys, so they are drawn first."""
    n_q, kv_heads = len(q), kv_shape[1]
    tiles = -(-n_q // queries)
    bad = False
    while True:
        ticket = take_ticket(tickets)
        if ticket >= tiles * kv_heads:
            return bad
        first, g = (tiles - 1 - ticket // kv_heads) * queries, ticket % kv_heads
        last = min(first + queries, n_q)
        bad |= query_tile(first, last, g, q, keys, values, kv_shape, pages, mask, out, lse, scratch)


@njit(error_model="numpy")
def query_tile(first, last, g, q, keys, values, kv_shape, pages, mask, out, lse, scratch):
    """Queries first … last - 1 of the heads that read KV head g, against all keys they see. True if not all is finite."""
    (k, k_strides), (v, v_strides), (n_k, kv_heads), (offset, window, causal) = keys, values, kv_shape, mask
    q_rows, acc, l, m, k_turned, v_copy, s = scratch
    group, d = q.shape[1] // kv_heads, q.shape[2]
    wide, rows = padded(d), (last - first) * group
    blocks = -(-rows // BLOCK)

    scale = LOG2E / np.float32(math.sqrt(d))
    acc[:], l[:], m[:], q_rows[:] = ZERO, ZERO, MINUS_INF, ZERO
    for r in range(rows):
        for c in range(d):
            q_rows[r * d + c] = q[first + r // group, g * group + r % group, c] * scale

    position = offset + first
    stop = min(n_k, offset + last) if causal else n_k
    start = max(0, position - window + 1) // KEYS * KEYS
    for key in range(start, stop, KEYS):
        count = min(KEYS, stop - key)
        turn_keys(k_turned, k, key, count, g, pages, k_strides, d)
        copy_values(v_copy, v, key, count, g, pages, v_strides, d)
        for b in range(blocks):
            top, bottom = position + b * BLOCK // group, position + (min(b * BLOCK + BLOCK, rows) - 1) // group
            if (causal and key > bottom) or key + KEYS <= top - window + 1:
                continue  # no row of this block sees any of these keys
            r = b * BLOCK
            for j in range(0, KEYS, 16 * VECTORS):
                outer_products(s, j, KEYS, q_rows, r * d, d, k_turned, j, KEYS, d, BLOCK, VECTORS, FRESH)
            if (causal and key + KEYS - 1 > top) or key < bottom - window + 1 or key + KEYS > n_k:
                for j in range(BLOCK):
                    at = position + (r + j) // group
                    hide(s, j * KEYS, max(0, at - window + 1 - key), min(n_k, at + 1 if causal else n_k) - key)
            for j in range(BLOCK):
                online_softmax(s, j * KEYS, m, l, acc, r + j, wide)
            add_values(acc, r * wide, s, v_copy, wide)

    finite = splat(ZERO)
    for r in range(rows):
        i, h = first + r // group, g * group + r % group
        total = sum_of(load(l, 16 * r))
        share = np.float32(1) / total if total != ZERO else ZERO  # a row that saw no key: zeros
        for c in range(0, wide, 16):
            finite = fma(load(acc, r * wide + c), splat(share * ZERO), finite)  # 0 × anything finite stays 0
        for c in range(d):
            out[i, h, c] = acc[r * wide + c] * share
        lse[i, h] = (m[r] + np.float32(math.log2(total))) * LN2 if total != ZERO else MINUS_INF
    return sum_of(finite) != ZERO


@njit(error_model="numpy")
def turn_keys(to, k, key, count, g, pages, strides, d):
    """to[c, j] = component c of key `key + j`, as float32: lanes become keys. Zeros where there is no key."""
    if count < KEYS:
        to[:] = ZERO
    j = 0
    while j < count:
        at, together = find(key + j, pages, strides)
        base, row, n = at + g * strides[2], strides[1], min(together, count - j, 16)
        for c in range(0, d, 16):
            if n == 16 and c + 16 <= d:
                transpose16(to, c * KEYS + j, KEYS, k, base + c, row)
            else:
                for i in range(n):
                    for cc in range(c, min(c + 16, d)):
                        to[cc * KEYS + j + i] = number(k, base + i * row + cc)
        j += n


@njit(error_model="numpy")
def copy_values(to, v, key, count, g, pages, strides, d):
    """to[j, c] = component c of value `key + j`, as float32, rows padded to whole vectors. Zeros where there is no value."""
    wide = padded(d)
    if count < KEYS or d < wide:
        to[:] = ZERO
    j = 0
    while j < count:
        at, together = find(key + j, pages, strides)
        base, end = at + g * strides[2], j + min(together, count - j)
        while j < end:
            for c in range(0, d // 16 * 16, 16):
                store(to, j * wide + c, load(v, base + c))
            for c in range(d // 16 * 16, d):
                to[j * wide + c] = number(v, base + c)
            j, base = j + 1, base + strides[1]


@njit(error_model="numpy")
def add_values(acc, at, p, v, wide):
    """acc[6 rows] += P · V, as many vectors of columns at a time as the registers hold, and then one by one."""
    full = wide // (16 * VECTORS) * (16 * VECTORS)
    for c in range(0, full, 16 * VECTORS):
        outer_products(acc, at + c, wide, p, 0, KEYS, v, c, wide, KEYS, BLOCK, VECTORS, ADD)
    for c in range(full, wide, 16):
        outer_products(acc, at + c, wide, p, 0, KEYS, v, c, wide, KEYS, BLOCK, 1, ADD)
