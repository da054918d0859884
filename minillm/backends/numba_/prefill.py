"""Prefill: FlashAttention-2 on the cores of a CPU.

The loops are those of attention/flash.py: a tile of queries stays, tiles of keys and values pass by, and the online
softmax (m, l, acc) carries what must survive. What is new is where things lie. A tile of keys is turned and a tile of
values copied into scratch that fits the nearest cache, once, and all query rows of the tile use them there. Scores exist
for six rows at a time: made, turned into weights, used, and overwritten before they could leave that cache.

    for each (tile of queries, KV head), a task of the threads, longest first:
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
from typing import NamedTuple

import numpy as np
from numba import njit
from numba.extending import overload

from minillm.backends.numba_.atomics import job
from minillm.backends.numba_.compiled import kernel
from minillm.backends.numba_.kv_rows import decode_row, four_bits, of_rows, read_scales, turn_rows
from minillm.backends.numba_.kv_tiles import find_keys
from minillm.backends.numba_.loops import ADD, FRESH, VECTORS, outer_products, transpose16
from minillm.backends.numba_.online import KEYS, LN2, LOG2E, MINUS_INF, ZERO, hide, online_softmax, padded
from minillm.backends.numba_.pages import all_there, find
from minillm.backends.numba_.simd import fma, load, mul, number, splat, store, sum_of
from minillm.backends.numba_.tasks import complete, new_board, next_task, open_region, worker
from minillm.backends.numba_.team import launch

BLOCK = 6  # rows at a time: 6 × 4 vectors of sums fill 24 of 32 registers
TILE_ROWS = 192  # rows in a tile of queries: enough to make turning the keys cheap, and Q and acc still fit the second cache


def queries_per_tile(group):  # query heads that share a KV head -> queries
    return max(1, TILE_ROWS // group)


class Scratch(NamedTuple):
    """The workspace of a thread, as flat arrays. rows: of a tile of queries."""

    q: np.ndarray  # rows × d, scaled
    acc: np.ndarray  # rows × padded d
    l: np.ndarray  # rows × 16
    m: np.ndarray  # rows
    k: np.ndarray  # d × KEYS: keys, turned
    v: np.ndarray  # KEYS × padded d
    s: np.ndarray  # BLOCK × KEYS scores
    begins: np.ndarray  # KEYS: where keys begin, of rows of codes
    numbers: np.ndarray  # 2 × KEYS: their scales and minima


class Result(NamedTuple):
    """The results of prefill. bad[0]: a thread met a number that is not finite, or a block that is not there."""

    out: np.ndarray  # (n_q, heads, d)
    lse: np.ndarray  # (n_q, heads)
    bad: np.ndarray  # (1,)


@njit
def new_scratch(queries, group, d):  # -> Scratch
    """Make the workspace of a thread. Each array begins at a cache line: a vector across two lines is two loads."""
    rows, wide = -(-queries * group // BLOCK) * BLOCK, padded(d)
    q, acc, l, m = aligned(rows * d), aligned(rows * wide), aligned(rows * 16), aligned(rows)
    k, v, s, numbers = aligned(d * KEYS), aligned(KEYS * wide), aligned(BLOCK * KEYS), aligned(2 * KEYS)
    return Scratch(q, acc, l, m, k, v, s, np.empty(KEYS, np.int64), numbers)


@njit
def aligned(size):  # -> (size,) float32
    room = np.empty(size + 16, np.float32)
    shift = -(room.ctypes.data // 4) % 16
    return room[shift : shift + size]


@njit(error_model="numpy")
def prefill_part(number, threads, board, queries, q, k, v, pages, mask, result):
    """Take tiles until there are no more. The last queries see most keys, so they are taken first."""
    n_q, tiles, group = len(q), -(-len(q) // queries), q.shape[1] // k.heads
    w, scratch = worker(number, threads, board), new_scratch(queries, group, q.shape[2])
    open_region(w, tiles * k.heads)
    while True:
        task = next_task(w)
        if task < 0:
            return
        first, g = (tiles - 1 - task // k.heads) * queries, task % k.heads
        if query_tile(first, min(first + queries, n_q), g, q, k, v, pages, mask, result, scratch):
            result.bad[0] = True
        complete(w, task)


@kernel()
def prefill(words, threads, queries, q, k, v, pages, mask, result):
    """Fill the result, in tiles of so many queries.

    q: (n_q, heads, d). k, v: Stored. pages: Pages. mask: MaskRule. Where the table names a block that is not there, nothing is
    done and bad[0] set.
    """
    if not all_there(pages):
        result.bad[0] = True
        return
    board = new_board(threads, -(-len(q) // queries) * k.heads)
    launch(words, job(prefill_part, (threads, board, queries, q, k, v, pages, mask, result)))


@njit(error_model="numpy")
def query_tile(first, last, g, q, k, v, pages, mask, result, scratch):
    """Attend for queries first … last - 1 of the heads that read KV head g, to all keys they see. True if not all is finite."""
    n_k, offset, window, causal = pages.keys, mask.offset, mask.window, mask.causal
    q_rows, acc, l, m, s = scratch.q, scratch.acc, scratch.l, scratch.m, scratch.s
    group, d = q.shape[1] // k.heads, q.shape[2]
    wide, rows = padded(d), (last - first) * group
    blocks = -(-rows // BLOCK)

    scale = LOG2E / np.float32(math.sqrt(d))
    acc[:], l[:], m[:], q_rows[:] = ZERO, ZERO, MINUS_INF, ZERO
    for r in range(rows):
        at = ((first + r // group) * q.shape[1] + g * group + r % group) * d
        for c in range(0, d // 16 * 16, 16):
            store(q_rows, r * d + c, mul(load(q, at + c), splat(scale)))
        for c in range(d // 16 * 16, d):
            q_rows[r * d + c] = number(q, at + c) * scale

    position = offset + first
    stop = min(n_k, offset + last) if causal else n_k
    start = max(0, position - window + 1) // KEYS * KEYS
    for key in range(start, stop, KEYS):
        count = min(KEYS, stop - key)
        transpose_keys(scratch, k, key, count, g, pages, d)
        copy_values(scratch.v, v, key, count, g, pages, d)
        for b in range(blocks):
            top, bottom = position + b * BLOCK // group, position + (min(b * BLOCK + BLOCK, rows) - 1) // group
            if (causal and key > bottom) or key + KEYS <= top - window + 1:
                continue  # no row of this block sees any of these keys
            r = b * BLOCK
            for j in range(0, KEYS, 16 * VECTORS):
                outer_products(s, j, KEYS, q_rows, r * d, d, scratch.k, j, KEYS, d, BLOCK, VECTORS, FRESH)
            if (causal and key + KEYS - 1 > top) or key < bottom - window + 1 or key + KEYS > n_k:
                for j in range(BLOCK):
                    at = position + (r + j) // group
                    hide(s, j * KEYS, max(0, at - window + 1 - key), min(n_k, at + 1 if causal else n_k) - key)
            for j in range(BLOCK):
                online_softmax(s, j * KEYS, m, l, acc, r + j, wide)
            add_values(acc, r * wide, s, scratch.v, wide)

    finite = splat(ZERO)
    for r in range(rows):
        i, h = first + r // group, g * group + r % group
        total = sum_of(load(l, 16 * r))
        share = np.float32(1) / total if total != ZERO else ZERO  # a row that saw no key: zeros
        for c in range(0, wide, 16):
            finite = fma(load(acc, r * wide + c), splat(share * ZERO), finite)  # 0 × anything finite stays 0
        at = (i * q.shape[1] + h) * d
        for c in range(0, d // 16 * 16, 16):
            store(result.out, at + c, mul(load(acc, r * wide + c), splat(share)))
        for c in range(d // 16 * 16, d):
            result.out[i, h, c] = acc[r * wide + c] * share
        result.lse[i, h] = (m[r] + np.float32(math.log2(total))) * LN2 if total != ZERO else MINUS_INF
    return sum_of(finite) != ZERO


def transpose_keys(scratch, k, key, count, g, pages, d):
    """Transpose: scratch.k[c, j] = component c of key `key + j`, as float32: lanes become keys. Finite where there is no key."""


@overload(transpose_keys)
def transpose_keys_for(scratch, k, key, count, g, pages, d):
    return transpose_codes if of_rows(k) else transpose_numbers


def transpose_codes(scratch, k, key, count, g, pages, d):
    to, numbers = scratch.k, scratch.numbers
    find_keys(scratch.begins, key, count, pages, k)
    for j in range(0, KEYS, 16):
        turn_rows(to, j, KEYS, k.numbers, scratch.begins, j, g * k.head, d, k.format)
        read_scales(k.numbers, scratch.begins, j, g * k.head, d, k.format, numbers, j, KEYS)
        factor, least = load(numbers, j), load(numbers, KEYS + j) if four_bits(k.format) else splat(ZERO)
        for at in range(j, j + d * KEYS, KEYS):
            store(to, at, fma(load(to, at), factor, least))


def transpose_numbers(scratch, k, key, count, g, pages, d):
    to = scratch.k
    if count < KEYS:
        to[:] = ZERO
    j = 0
    while j < count:
        at, together = find(key + j, pages, k)
        base, row, n = at + g * k.head, k.row, min(together, count - j, 16)
        for c in range(0, d, 16):
            if n == 16 and c + 16 <= d:
                transpose16(to, c * KEYS + j, KEYS, k.numbers, base + c, row)
            else:
                for i in range(n):
                    for cc in range(c, min(c + 16, d)):
                        to[cc * KEYS + j + i] = number(k.numbers, base + i * row + cc)
        j += n


@njit(error_model="numpy")
def copy_values(to, v, key, count, g, pages, d):
    """Copy: to[j, c] = component c of value `key + j`, as float32, rows padded to whole vectors. Zeros where there is none."""
    wide = padded(d)
    if count < KEYS or d < wide:
        to[:] = ZERO
    j = 0
    while j < count:
        at, together = find(key + j, pages, v)
        base, end = at + g * v.head, j + min(together, count - j)
        while j < end:
            copy_head(to, j * wide, v, base, d)
            j, base = j + 1, base + v.row


def copy_head(to, ti, v, at, d):
    """Copy one value of a head, as float32."""


@overload(copy_head)
def copy_head_for(to, ti, v, at, d):
    return copy_codes if of_rows(v) else copy_numbers


def copy_codes(to, ti, v, at, d):
    decode_row(to, ti, v.numbers, at, d, v.format)


def copy_numbers(to, ti, v, at, d):
    for c in range(0, d // 16 * 16, 16):
        store(to, ti + c, load(v.numbers, at + c))
    for c in range(d // 16 * 16, d):
        to[ti + c] = number(v.numbers, at + c)


@njit(error_model="numpy")
def add_values(acc, at, p, v, wide):
    """Add P · V to acc[6 rows], as many vectors of columns at a time as the registers hold, and then one by one."""
    full = wide // (16 * VECTORS) * (16 * VECTORS)
    for c in range(0, full, 16 * VECTORS):
        outer_products(acc, at + c, wide, p, 0, KEYS, v, c, wide, KEYS, BLOCK, VECTORS, ADD)
    for c in range(full, wide, 16):
        outer_products(acc, at + c, wide, p, 0, KEYS, v, c, wide, KEYS, BLOCK, 1, ADD)
