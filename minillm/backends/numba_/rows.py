"""Attention of all short segments of a step in one call: new keys and values written, every query answered.

A decode step asks little of each sequence: one row appended, one query answered, some microseconds each, in every layer.
Thirty-two sequences in thirty layers are a thousand trips into compiled code and back, and the trips cost more than the
work. So the step of a batch is one call per layer, or part of the one call for all layers (stack.py).

    rows     a row is a token: one query. A sequence that brings several (drafts to verify, a short chunk) has as many rows,
             each of which sees one key more than the one before; a group is rows of one sequence
    items    group 0: keys 0–63, 64–127 │ group 1: 0–63 │ group 2: 0–63, 64–127, 128–191 │ …
             some of them are a task (tasks.py). An item reads its keys once, and answers all rows of its group while they
             are in the cache of the core; each is answered as it would be alone, bit for bit
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from minillm.backends.numba_.atomics import job
from minillm.backends.numba_.bands import operand
from minillm.backends.numba_.compiled import kernel
from minillm.backends.numba_.crossover import SERIAL
from minillm.backends.numba_.decode import State, all_finite, merge, partial, room_for, split_keys
from minillm.backends.numba_.layer import own_or, rope_row
from minillm.backends.numba_.loops import AHEAD
from minillm.backends.numba_.multiply import round_row
from minillm.backends.numba_.online import KEYS, LOG2E
from minillm.backends.numba_.pages import EVERYTHING, MaskRule, Pages, Stored, find, memory
from minillm.backends.numba_.simd import load, mul, splat, store, store_as
from minillm.backends.numba_.tasks import (
    TASKS,
    TASKS_OF_A_THREAD,
    begin_rows,
    complete,
    new_board,
    next_rows,
    next_task,
    open_region,
    row_tasks,
    worker,
)
from minillm.backends.numba_.team import launch

STRETCH = 8  # items of a task: the next one's first keys have been asked for while a thread did the last


class Caches(NamedTuple):
    """The caches of a step as the kernels see them, the same for all layers. One entry for each row, but for five."""

    k_at: np.ndarray  # addresses of the first layer's keys
    v_at: np.ndarray
    apart: np.ndarray  # bytes from layer to layer
    like: np.ndarray  # an empty array of the type of their numbers
    strides: np.ndarray  # (3,) elements from block to block, token to token, head to head
    tables: np.ndarray  # (rows, blocks) block tables
    size: int  # tokens of a block
    lengths: np.ndarray  # tokens, the row's own included
    groups: np.ndarray  # (groups + 1,) first row of each


class Space(NamedTuple):
    """What the threads write for each other in a step, the same memory in every layer."""

    first_item: np.ndarray  # (groups + 1,) of each group, in the list of all
    first_split: np.ndarray  # (rows + 1,) of each row's results
    acc: np.ndarray  # (splits, heads · d), as decode.State
    m: np.ndarray
    l: np.ndarray
    scaled: np.ndarray  # (rows, 1, heads, d) queries
    good: np.ndarray  # (1,) 1 as long as all is finite


@njit
def space_of(heads, d, caches):  # -> Space
    rows, groups, lengths = len(caches.lengths), caches.groups, caches.lengths
    first_item, first_split = np.zeros(len(groups), np.int64), np.zeros(rows + 1, np.int64)
    for b in range(rows):
        first_split[b + 1] = first_split[b] - (-lengths[b] // split_keys(lengths[b]))
    for g in range(len(groups) - 1):
        last = groups[g + 1]  # its last row sees most keys
        first_item[g + 1] = first_item[g] + first_split[last] - first_split[last - 1]
    splits, good = first_split[rows], np.ones(1, np.int64)
    acc, m, l = room_for(splits, heads, d)
    return Space(first_item, first_split, acc, m, l, np.empty((rows, 1, heads, d), np.float32), good)


@njit
def stretch_of(space, threads):  # -> items of a task
    return max(1, min(STRETCH, space.first_item[-1] // (TASKS_OF_A_THREAD * threads)))


@njit
def attention_tasks(space, threads):
    return -(-space.first_item[-1] // stretch_of(space, threads))


@njit
def stored_at(address, caches, b, layer, kv_heads):  # -> Stored
    """View the keys, or values, of one layer of row b's sequence. address: of its first layer's."""
    block, row, head = caches.strides
    return Stored(memory(address + layer * caches.apart[b], caches.like), block, row, head, kv_heads)


class Scratch(NamedTuple):
    """The workspace of one thread."""

    s: np.ndarray  # as decode.State
    side: np.ndarray
    begins: np.ndarray
    key: np.ndarray  # (kv_heads · d,)
    scaled: np.ndarray  # (rows, 1, heads, d) queries: its own where each thread scales all, else those of all
    lse: np.ndarray  # (1, heads)


@njit
def scratch_of(rotation, rows, space):  # -> Scratch
    heads, d = rotation.heads, rotation.d
    s, side, begins = np.empty(heads * KEYS, np.float32), np.empty(16 * d, np.float32), np.empty(KEYS + AHEAD, np.int64)
    scaled = np.empty((rows, 1, heads, d), np.float32) if rows <= SERIAL else space.scaled
    return Scratch(s, side, begins, np.empty(rotation.kv_heads * d, np.float32), scaled, np.empty((1, heads), np.float32))


@njit
def attend(w, kv_heads, caches, layer, space, scratch):
    """Compute the splits of all rows. A region."""
    first_item, stretch, groups = space.first_item, stretch_of(space, w.threads), caches.groups
    open_region(w, attention_tasks(space, w.threads))
    while True:
        task = next_task(w)
        if task < 0:
            return
        g = 0
        for item in range(task * stretch, min((task + 1) * stretch, first_item[-1])):
            while item >= first_item[g + 1]:
                g += 1
            split = item - first_item[g]
            for b in range(groups[g], groups[g + 1]):
                if split < space.first_split[b + 1] - space.first_split[b]:
                    attend_split(b, split, kv_heads, caches, layer, space, scratch)
        complete(w, task)


@njit
def attend_split(b, split, kv_heads, caches, layer, space, scratch):
    """Compute one split of one row."""
    n_k, keys, at = caches.lengths[b], split_keys(caches.lengths[b]), space.first_split[b] + split
    k = stored_at(caches.k_at[b], caches, b, layer, kv_heads)
    v = stored_at(caches.v_at[b], caches, b, layer, kv_heads)
    pages, mask = Pages(caches.tables[b], caches.size, EVERYTHING, n_k), MaskRule(n_k - 1, EVERYTHING, True)
    state = State(space.acc[at], space.m[at], space.l[at], scratch.s, scratch.side, scratch.begins)
    partial(split * keys, min(split * keys + keys, n_k), scratch.scaled[b], k, v, pages, mask, state)
    if not all_finite(state.acc):  # asked here, where nothing is computed twice: a thread that is late merges what it may find
        space.good[0] = 0


@njit
def attend_rows(w, qkv, rotation, caches, layer, space, scratch, out, rounds):
    """Turn queries and keys, extend the caches, attend: to out.x, rounded where the next matrix wants it.

    qkv: (rows, q │ k │ v).
    """
    rows, heads, d = len(qkv), rotation.heads, rotation.d
    start_rows(w, qkv, rotation, caches, layer, scratch)
    attend(w, rotation.kv_heads, caches, layer, space, scratch)
    out3 = out.x.reshape(rows, heads, d)
    begin_rows(w, rows)
    while True:
        first, last = next_rows(w, rows)
        if first == last:
            return
        for b in range(first, last):
            own = slice(space.first_split[b], space.first_split[b + 1])
            merge(space.acc[own], space.m[own], space.l[own], out3[b : b + 1], scratch.lse)
            if rounds:
                round_row(out, b)


@njit
def start_rows(w, qkv, rotation, caches, layer, scratch):
    """Turn keys to their positions and write them, and the values, to the caches: a region. Turn and scale queries."""
    rows = len(qkv)
    few = rows <= SERIAL
    if few:  # each thread for itself, and who waits for the region has done it meanwhile
        for b in range(rows):
            scale_query(b, qkv[b], rotation, scratch.scaled)
    open_region(w, 1 if few else row_tasks(rows, w.threads))
    tasks = w.own[TASKS]
    while True:
        task = next_task(w)
        if task < 0:
            return
        for b in range(task * rows // tasks, (task + 1) * rows // tasks):
            if not few:
                scale_query(b, qkv[b], rotation, scratch.scaled)
            remember(b, qkv[b], rotation, caches, layer, scratch.key)
        complete(w, task)


@njit
def scale_query(b, row, rotation, scaled):
    """Turn the query of row b to its position, and scale it."""
    to, scale = scaled[b].reshape(-1), splat(LOG2E / np.float32(math.sqrt(rotation.d)))
    rope_row(row, 0, rotation.heads, b, rotation, to, 0)
    for c in range(0, len(to), 16):
        store(to, c, mul(load(to, c), scale))


@njit
def remember(b, row, rotation, caches, layer, key):
    """Turn the key of row b to its position, and write it and the value to the cache. key: room for one."""
    heads, kv_heads, d = rotation.heads, rotation.kv_heads, rotation.d
    k = stored_at(caches.k_at[b], caches, b, layer, kv_heads)
    v = stored_at(caches.v_at[b], caches, b, layer, kv_heads)
    newest, value = caches.lengths[b] - 1, (heads + kv_heads) * d
    place = find(newest, Pages(caches.tables[b], caches.size, EVERYTHING, newest + 1), k)[0]
    rope_row(row, heads * d, kv_heads, b, rotation, key, 0)
    for g in range(kv_heads):
        for c in range(0, d, 16):
            store_as(k.numbers, place + g * k.head + c, load(key, g * d + c))
            store_as(v.numbers, place + g * v.head + c, load(row, value + g * d + c))


@njit
def batch_part(number, threads, board, qkv, rotation, caches, layer, space, out):
    w, scratch, found = worker(number, threads, board), scratch_of(rotation, len(qkv), space), own_or(out)
    attend_rows(w, qkv, rotation, caches, layer, space, scratch, found, False)
    if len(qkv) <= SERIAL and number == 0:
        out.x[:] = found.x


@kernel()
def attend_batch(words, threads, qkv, rotation, caches, layer, out):
    """Fill out[b] with the attention of row b, after its key and value have become the last of its sequence.

    qkv: (rows, (heads + 2 · kv_heads) · d); out: (rows, heads · d). Returns whether all of out is finite.
    """
    space = space_of(rotation.heads, rotation.d, caches)
    board = new_board(threads, max(row_tasks(len(qkv), threads), attention_tasks(space, threads)))
    launch(words, job(batch_part, (threads, board, qkv, rotation, caches, layer, space, operand(out))))
    return space.good[0] == 1
