"""Attention of all short segments of a step in one call: new keys and values written, every query answered.

A decode step asks little of each sequence: one row appended, one query answered, some microseconds each, in every layer.
Thirty-two sequences in thirty layers are a thousand trips into compiled code and back, and the trips cost more than the
work. So the step of a batch is one call per layer, or part of the one call for all layers (stack.py).

    rows     a row is a token: one query. A sequence that brings several (drafts to verify, a short chunk) has as many rows,
             each of which sees one key more than the one before; a group is rows of one sequence
    items    group 0: keys 0–63, 64–127 │ group 1: 0–63 │ group 2: 0–63, 64–127, 128–191 │ …
             some of them are a task (tasks.py). An item reads its keys once, for all rows of its group; each is answered as it
             would be alone, bit for bit
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from minillm.backends.numba_.atomics import job
from minillm.backends.numba_.bands import operand
from minillm.backends.numba_.compiled import kernel
from minillm.backends.numba_.crossover import SERIAL
from minillm.backends.numba_.decode import Next, Room, all_finite, merge, partial, room_for, room_of, row_of, split_keys, state_of
from minillm.backends.numba_.kv_queries import prepare
from minillm.backends.numba_.kv_rows import turn_heads, write
from minillm.backends.numba_.layer import own_or, rope_row
from minillm.backends.numba_.multiply import round_row
from minillm.backends.numba_.online import KEYS, LOG2E
from minillm.backends.numba_.pages import EVERYTHING, MaskRule, Pages, Stored, borrowed, find, memory
from minillm.backends.numba_.simd import load, store
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
    """The caches of a step as the kernels see them, the same for all layers. One entry for each row, but for six."""

    k_at: np.ndarray  # addresses of the first layer's keys
    v_at: np.ndarray
    apart: np.ndarray  # bytes from layer to layer
    like: np.ndarray  # an empty array of the type of their numbers
    strides: np.ndarray  # (3,) elements from block to block, token to token, head to head
    tables: np.ndarray  # (rows, blocks) block tables
    size: int  # tokens of a block
    lengths: np.ndarray  # tokens, the row's own included
    groups: np.ndarray  # (groups + 1,) first row of each
    format: int  # of their rows, as Stored


class Space(NamedTuple):
    """What the threads write for each other in a step, the same memory in every layer."""

    first_item: np.ndarray  # (groups + 1,) of each group, in the list of all
    first_result: np.ndarray  # (groups + 1,) of each group: its items, each for all of its rows
    group_of: np.ndarray  # (rows,)
    acc: np.ndarray  # (results, heads · d), as decode.State
    m: np.ndarray
    l: np.ndarray
    scaled: np.ndarray  # (rows, heads, d) queries; those of a group in the order of decode.row_of
    good: np.ndarray  # (1,) 1 as long as all is finite


@njit
def space_of(heads, d, caches):  # -> Space
    groups, group_of = caches.groups, np.empty(len(caches.lengths), np.int64)
    first_item, first_result = np.zeros(len(groups), np.int64), np.zeros(len(groups), np.int64)
    for g in range(len(groups) - 1):
        n_k, rows = caches.lengths[groups[g + 1] - 1], groups[g + 1] - groups[g]  # its last row sees most keys
        items = -(-n_k // split_keys(n_k))
        first_item[g + 1], first_result[g + 1] = first_item[g] + items, first_result[g] + items * rows
        group_of[groups[g] : groups[g + 1]] = g
    acc, m, l = room_for(first_result[-1], heads, d)
    scaled, good = np.empty((len(group_of), heads, d), np.float32), np.ones(1, np.int64)
    return Space(first_item, first_result, group_of, acc, m, l, scaled, good)


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
    return Stored(memory(address + layer * caches.apart[b], caches.like), block, row, head, kv_heads, caches.format)


class Scratch(NamedTuple):
    """The workspace of one thread."""

    room: Room
    key: np.ndarray  # (2 · kv_heads · d,): of a row to be remembered, and its value
    codes: np.ndarray  # (d,)
    scaled: np.ndarray  # (rows, heads, d) queries: its own where each thread scales all, else those of all
    lse: np.ndarray  # (0,): nobody asks


@njit
def scratch_of(rotation, rows, space):  # -> Scratch
    heads, d, most = rotation.heads, rotation.d, 1
    for g in range(len(space.first_item) - 1):
        most = max(most, (space.first_result[g + 1] - space.first_result[g]) // (space.first_item[g + 1] - space.first_item[g]))
    scaled = np.empty((rows, heads, d), np.float32) if rows <= SERIAL else space.scaled
    key, codes = np.empty(2 * rotation.kv_heads * d, np.float32), np.empty(d, np.uint8)
    return Scratch(room_of(most * heads, d), key, codes, scaled, np.empty(0, np.float32))


@njit
def attend(w, kv_heads, caches, layer, space, scratch):
    """Compute the splits of all rows. A region."""
    first_item, stretch, ready = space.first_item, stretch_of(space, w.threads), -1
    open_region(w, attention_tasks(space, w.threads))
    while True:
        task = next_task(w)
        if task < 0:
            return
        g = 0
        for item in range(task * stretch, min((task + 1) * stretch, first_item[-1])):
            while item >= first_item[g + 1]:
                g += 1
            attend_split(g, item - first_item[g], kv_heads, caches, layer, space, scratch, g != ready)
            ready = g
        complete(w, task)


@njit
def attend_split(g, split, kv_heads, caches, layer, space, scratch, new):
    """Compute one split, for all rows of a group; new: its queries are not those of this thread's last one."""
    first, last = caches.groups[g], caches.groups[g + 1]
    n_k, rows = caches.lengths[last - 1], last - first
    keys, at = split_keys(n_k), space.first_result[g] + split * rows
    k = stored_at(caches.k_at[first], caches, first, layer, kv_heads)
    v = stored_at(caches.v_at[first], caches, first, layer, kv_heads)
    pages = Pages(borrowed(caches.tables[first]), caches.size, EVERYTHING, n_k)
    mask = MaskRule(n_k - rows, EVERYTHING, True)
    acc, m, l = space.acc[at : at + rows].reshape(-1), space.m[at : at + rows].reshape(-1), space.l[at : at + rows].reshape(-1)
    state, q = state_of(acc, m, l, scratch.room), borrowed(scratch.scaled[first:last])
    if new:
        prepare(k, q, state)
    start, stop = split * keys, min(split * keys + keys, n_k)
    then = after(g, stop, k, pages, kv_heads, caches, layer)
    partial(start, stop, q, k, v, pages, mask, state, then)
    if not all_finite(acc):  # asked here, where nothing is computed twice: a thread that is late merges what it may find
        space.good[0] = 0


@njit
def after(g, stop, k, pages, kv_heads, caches, layer):  # -> Next
    """Find what comes after the keys of a split: the next ones of its group, or the first of the next group."""
    if stop < pages.keys:
        return Next(k, pages, stop, min(KEYS, pages.keys - stop))
    if g + 2 < len(caches.groups):
        return first_keys(g + 1, kv_heads, caches, layer)
    return Next(k, pages, stop, 0)


@njit
def first_keys(g, kv_heads, caches, layer):  # -> Next
    first, n_k = caches.groups[g], caches.lengths[caches.groups[g + 1] - 1]
    k = stored_at(caches.k_at[first], caches, first, layer, kv_heads)
    return Next(k, Pages(borrowed(caches.tables[first]), caches.size, EVERYTHING, n_k), 0, min(KEYS, n_k))


@njit
def attend_rows(w, qkv, rotation, caches, layer, space, scratch, out, rounds):
    """Turn queries and keys, extend the caches, attend: to out.x, rounded to so many bits where the next matrix wants it.

    qkv: (rows, q │ k │ v).
    """
    rows, heads, d = len(qkv), rotation.heads, rotation.d
    start_rows(w, qkv, rotation, caches, layer, space, scratch)
    attend(w, rotation.kv_heads, caches, layer, space, scratch)
    out3 = out.x.reshape(rows, heads, d)
    begin_rows(w, rows)
    while True:
        first, last = next_rows(w, rows)
        if first == last:
            return
        for b in range(first, last):
            merge_row(b, rotation.kv_heads, caches, space, out3[b], scratch.lse)
            if rounds:
                round_row(out, b, rounds)


@njit
def merge_row(b, kv_heads, caches, space, out, lse):
    """Merge what was found for row b, and turn it back to the axes of the model. out: (heads, d)"""
    g = space.group_of[b]
    own, items = slice(space.first_result[g], space.first_result[g + 1]), space.first_item[g + 1] - space.first_item[g]
    first, last = caches.groups[g], caches.groups[g + 1]
    acc, m, l = space.acc[own].reshape(items, -1), space.m[own].reshape(items, -1), space.l[own].reshape(items, -1)
    merge(acc, m, l, b - first, last - first, kv_heads, out, lse)
    turn_heads(out.reshape(-1), 0, len(out), out.shape[1], caches.format)


@njit
def start_rows(w, qkv, rotation, caches, layer, space, scratch):
    """Turn keys to their positions and write them, and the values, to the caches: a region. Turn and scale queries."""
    rows = len(qkv)
    few = rows <= SERIAL
    if few:  # each thread for itself, and who waits for the region has done it meanwhile
        for b in range(rows):
            scale_query(b, qkv[b], rotation, caches, space, scratch.scaled)
    open_region(w, 1 if few else row_tasks(rows, w.threads))
    tasks = w.own[TASKS]
    while True:
        task = next_task(w)
        if task < 0:
            return
        for b in range(task * rows // tasks, (task + 1) * rows // tasks):
            if not few:
                scale_query(b, qkv[b], rotation, caches, space, scratch.scaled)
            if not remember(b, qkv[b], rotation, caches, layer, scratch):
                space.good[0] = 0
        complete(w, task)


@njit
def scale_query(b, row, rotation, caches, space, scaled):
    """Turn the query of row b to its position, and scale it."""
    first, last = caches.groups[space.group_of[b]], caches.groups[space.group_of[b] + 1]
    to, scale, d = scaled[first:last].reshape(-1), LOG2E / np.float32(math.sqrt(rotation.d)), rotation.d
    group = rotation.heads // rotation.kv_heads
    for head in range(0, rotation.heads, group):
        at = row_of(b - first, head, last - first, group) * d
        rope_row(row, head * d, group, b, rotation, to, at, scale)
        turn_heads(to, at, group, d, caches.format)


@njit
def remember(b, row, rotation, caches, layer, scratch):
    """Turn the key of row b to its position, and write it and the value to the cache. Returns whether they could be encoded."""
    heads, kv_heads, d, both = rotation.heads, rotation.kv_heads, rotation.d, scratch.key
    k = stored_at(caches.k_at[b], caches, b, layer, kv_heads)
    v = stored_at(caches.v_at[b], caches, b, layer, kv_heads)
    newest, wide = caches.lengths[b] - 1, kv_heads * d
    place = find(newest, Pages(caches.tables[b], caches.size, EVERYTHING, newest + 1), k)[0]
    rope_row(row, heads * d, kv_heads, b, rotation, both, 0)
    for c in range(0, wide, 16):
        store(both, wide + c, load(row, heads * d + wide + c))
    turn_heads(both, 0, 2 * kv_heads, d, caches.format)
    good = True
    for g in range(kv_heads):
        good &= write(k, place + g * k.head, both, g * d, d, scratch.codes)
        good &= write(v, place + g * v.head, both, wide + g * d, d, scratch.codes)
    return good


@njit
def batch_part(number, threads, board, qkv, rotation, caches, layer, space, out):
    w, scratch, found = worker(number, threads, board), scratch_of(rotation, len(qkv), space), own_or(out)
    attend_rows(w, qkv, rotation, caches, layer, space, scratch, found, 0)
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
