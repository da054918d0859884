"""Decode: one query, or a few, against a long cache. The work is reading it, so every byte is read once, by some core.

Each key takes part in one dot product a query, each value in one multiply-add, and then both are done with. The time is the
time of the bytes. So the cache is cut along the tokens into splits; a split is a contiguous stretch of memory that one core
reads from end to end, for all query heads and queries:

    for each split of the keys, a task of the threads:
        for each tile of 64 keys in it:
            for each 32 of them, and KV head:    Kᵀ → scratch, S = Q·Kᵀ       memory is asked for the tile's values meanwhile,
            P, m, l, acc                         online softmax
            for each 16 of them, and KV head:    acc += P·V                   and here for the keys of the next tile

A core can ask for some lines of memory at a time and stops when it asks for more, so it asks for a few between two products.

Rows are queries of one head, those that read the same KV head side by side: a key, once turned, and a value, once loaded, serve
up to six. A row's sums are the same chain of multiply-adds in any company, so a query gets the same bits alone and among others.
At the end the splits' partial results are merged by their log-sum-exp, as in attention/split_kv.py. Where the cuts lie depends
on the number of keys alone: results do not depend on the number of threads.

Dao, Haziza, Massa, Sizov 2023, "Flash-Decoding for long-context inference".
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numba.extending import register_jitable

from minillm.backends.numba_.atomics import job
from minillm.backends.numba_.compiled import kernel
from minillm.backends.numba_.kv_queries import TURNED, prepare
from minillm.backends.numba_.kv_rows import width_of
from minillm.backends.numba_.kv_tiles import add_tile, codes_room, find_keys, side_by_side, tile_scores
from minillm.backends.numba_.online import KEYS, LN2, LOG2E, MINUS_INF, ZERO, hide, online_softmax
from minillm.backends.numba_.pages import Pages, Stored, all_there, ask_for, borrowed, find_all
from minillm.backends.numba_.simd import div, exp2, fma, load, mul, splat, store, sum_of
from minillm.backends.numba_.tasks import complete, new_board, next_task, open_region, worker
from minillm.backends.numba_.team import launch


@register_jitable
def split_keys(n_k):  # -> keys of a split
    """Choose how to cut the keys: 32 pieces or so, enough to share out, few enough to merge. By the number of keys alone, so that
    a sequence is cut alike, and answered alike to the bit, alone and in a batch."""
    return max(KEYS, -(-n_k // 32) // KEYS * KEYS)


class State(NamedTuple):
    """The workspace of one thread on one split, as flat arrays. rows: queries × heads, in the order of `row_of`."""

    acc: np.ndarray  # rows × d, unfinished
    m: np.ndarray  # rows
    l: np.ndarray  # rows × 16
    s: np.ndarray  # rows × KEYS scores
    side: np.ndarray  # 16 × d, for keys that lie apart, or values that were codes
    turned: np.ndarray  # d × TURNED
    begins: np.ndarray  # where values begin
    key_begins: np.ndarray  # where keys begin
    numbers: np.ndarray  # kv_tiles.py: of rows of codes, as are the last two
    digits: np.ndarray
    starts: np.ndarray


class Next(NamedTuple):
    """The keys that a thread will read after these: memory is asked for them. keys 0: none."""

    k: Stored
    pages: Pages
    key: int
    keys: int


@njit
def row_of(query, head, queries, group):
    """Find the row of a query and head: rows of one KV head lie side by side, so that six of them can share a key."""
    return (head // group * queries + query) * group + head % group


@njit
def room_for(splits, rows, d):  # -> acc, m, l of State, for each split
    m, l = np.empty((splits, rows), np.float32), np.empty((splits, rows * 16), np.float32)
    return np.empty((splits, rows * d), np.float32), m, l


class Room(NamedTuple):
    """The arrays of a thread of which State has views."""

    s: np.ndarray
    side: np.ndarray
    turned: np.ndarray
    begins: np.ndarray
    key_begins: np.ndarray
    numbers: np.ndarray
    digits: np.ndarray
    starts: np.ndarray


@njit
def room_of(rows, d):  # -> Room
    s, side, turned = np.empty(rows * KEYS, np.float32), np.empty(16 * d, np.float32), np.empty(d * TURNED, np.float32)
    return Room(s, side, turned, np.empty(KEYS, np.int64), np.empty(KEYS, np.int64), *codes_room(rows, d))


@njit(forceinline=True)
def state_of(acc, m, l, room):  # -> State, for as long as its caller keeps these arrays
    acc, m, l, s = borrowed(acc), borrowed(m), borrowed(l), borrowed(room.s)
    side, turned = borrowed(room.side), borrowed(room.turned)
    begins, key_begins, numbers = borrowed(room.begins), borrowed(room.key_begins), borrowed(room.numbers)
    return State(acc, m, l, s, side, turned, begins, key_begins, numbers, borrowed(room.digits), borrowed(room.starts))


@njit(forceinline=True)
def lent(stored):  # Stored -> Stored
    return Stored(borrowed(stored.numbers), stored.block, stored.row, stored.head, stored.heads, stored.format)


@njit
def decode_part(number, threads, board, q, k, v, pages, mask, span, acc, m, l):
    """Attend to splits of the keys, each a task."""
    w, (start, stop, size), (n_q, heads, d) = worker(number, threads, board), span, q.shape
    room = room_of(n_q * heads, d)
    prepare(k, q, state_of(acc[0], m[0], l[0], room))
    open_region(w, len(acc))
    while True:
        split = next_task(w)
        if split < 0:
            return
        first, state = start + split * size, state_of(acc[split], m[split], l[split], room)
        last, keys, values = min(first + size, stop), lent(k), lent(v)
        partial(first, last, borrowed(q), keys, values, pages, mask, state, Next(keys, pages, last, min(KEYS, stop - last)))
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
    for i in range(n_q):
        for h in range(heads):
            at = row_of(i, h, n_q, heads // k.heads) * d
            for c in range(0, d, 16):
                store(scaled, at + c, mul(load(q, (i * heads + h) * d + c), splat(scale)))
    launch(words, job(decode_part, (threads, new_board(threads, splits), scaled, k, v, pages, mask, span, acc, m, l)))
    for i in range(n_q):
        merge(acc, m, l, i, n_q, k.heads, out[i], lse[i])
    return out, lse, all_finite(out)


@njit
def all_finite(x):
    """Whether all of x, in whole registers, is finite: 0 times anything finite stays 0."""
    poison = splat(ZERO)
    for i in range(0, x.size, 16):
        poison = fma(load(x, i), splat(ZERO), poison)
    return sum_of(poison) == ZERO


@njit(error_model="numpy")
def partial(first, last, q, k, v, pages, mask, state, then):
    """Attend for all rows to keys first … last - 1: unfinished acc, m and l. q: (queries, heads, d), in the order of `row_of`.

    `prepare` must have been called with k, q and the arrays of the state.
    """
    n_q, heads, d = q.shape
    acc, m, l, s, begins = state.acc, state.m, state.l, state.s, state.begins
    group = heads // k.heads
    rows, width = n_q * group, width_of(k, d)  # rows: of a KV head
    acc[:], l[:], m[:] = ZERO, ZERO, MINUS_INF
    for key in range(first, last, KEYS):
        count = min(KEYS, last - key)
        find_all(begins, key, count, pages, v)
        begins[count:] = begins[count - 1]
        find_keys(state.key_begins, key, count, pages, k)
        for j in range(0, count, TURNED):
            for g in range(k.heads):
                tile_scores(state, q, k, v, key, j, min(TURNED, count - j), g, rows, pages)
        for r in range(n_q * heads):
            position = mask.offset + r % rows // group
            stop = min(last, position + 1) if mask.causal else last
            hide(s, r * KEYS, position - mask.window + 1 - key, stop - key)
            online_softmax(s, r * KEYS, m, l, acc, r, d)
        for j in range(0, KEYS, 16):
            if key + KEYS < last:
                at, n = side_by_side(k, pages, key + KEYS + j, last)
            else:
                at, n = side_by_side(then.k, then.pages, then.key + j, then.key + then.keys)
            for g in range(k.heads):
                if key + KEYS < last:
                    ask_for(k.numbers, at + g * n * width, n * width)
                else:
                    ask_for(then.k.numbers, at + g * n * width, n * width)
                if j < count:
                    add_tile(state, v, g, rows, j, count, d)


@njit(error_model="numpy")
def merge(acc, m, l, query, queries, kv_heads, out, lse):
    """Merge the splits' results of one query: each counts by 2^(m_split - m), with m the largest of all.

    acc, m, l: (splits, rows · …), the rows of all queries. out: (heads, d), lse: (heads,) or none.
    """
    heads, d = out.shape
    for h in range(heads):
        r, top = row_of(query, h, queries, heads // kv_heads), MINUS_INF
        for split in range(len(m)):
            top = max(top, m[split, r])
        top = top if top > MINUS_INF else ZERO  # -inf - -inf would not be a number
        total = splat(ZERO)
        for c in range(0, d, 16):
            store(out, h * d + c, splat(ZERO))
        for split in range(len(m)):
            weight = exp2(splat(m[split, r] - top))
            total = fma(weight, load(l, split * l.shape[1] + 16 * r), total)
            for c in range(0, d, 16):
                part = load(acc, split * acc.shape[1] + r * d + c)
                store(out, h * d + c, fma(weight, part, load(out, h * d + c)))
        l_all = sum_of(total)
        if l_all != ZERO:  # else no key was seen
            for c in range(0, d, 16):
                store(out, h * d + c, div(load(out, h * d + c), splat(l_all)))
        if len(lse):
            lse[h] = (top + np.float32(math.log2(l_all))) * LN2 if l_all != ZERO else MINUS_INF
