"""Decode attention of a whole batch in one call: new keys and values written, every query answered.

A decode step asks little of each sequence: one row appended, one query answered, some microseconds each, in every layer.
Thirty-two sequences in thirty layers are a thousand trips into compiled code and back, and the trips cost more than the
work. So the step of a batch is one call per layer. What it needs to know of the caches is collected once per step: where
the first layer's keys lie, the distance from layer to layer, the block tables, the lengths.

    work list     sequence 0: keys 0–63, 64–127 │ sequence 1: 0–63 │ sequence 2: 0–63, 64–127, 128–191 │ …
                  drawn by the threads one after another; each result is what the sequence would get alone, bit for bit

Segments of more than one token (prefill, chunks) in the same step go the plain way.
"""

import math
from typing import NamedTuple

import numba
import numpy as np
from numba import njit, prange

from minillm.attention.shapes import check_finite
from minillm.backends import step
from minillm.backends.numba_.compiled import kernel
from minillm.backends.numba_.decode import State, merge, partial, split_keys
from minillm.backends.numba_.loops import AHEAD
from minillm.backends.numba_.online import KEYS, LOG2E, ZERO
from minillm.backends.numba_.pages import EVERYTHING, MaskRule, Pages, Stored, find, memory
from minillm.backends.numba_.simd import fma, load, mul, splat, store, store_as, sum_of, take_ticket

STRETCH = 32  # splits that a thread draws at once: the next one's first keys have been asked for while it did the last


class Caches(NamedTuple):
    """The caches of a step as the kernels see them, the same for all layers. One entry for each sequence, but for three."""

    k_at: np.ndarray  # addresses of the first layer's keys
    v_at: np.ndarray
    apart: np.ndarray  # bytes from layer to layer
    like: np.ndarray  # an empty array of the type of their numbers
    strides: np.ndarray  # (3,) elements from block to block, token to token, head to head
    tables: np.ndarray  # (batch, blocks) block tables
    size: int  # tokens of a block
    lengths: np.ndarray  # tokens, the new one included


class Space(NamedTuple):
    """The workspace of a step, the same in every layer: allocated once."""

    first_split: np.ndarray  # (batch + 1,) of each sequence, in the list of all
    acc: np.ndarray  # (splits, heads · d), as decode.State
    m: np.ndarray
    l: np.ndarray
    s: np.ndarray  # (threads, …)
    side: np.ndarray
    begins: np.ndarray
    scaled: np.ndarray  # (batch, 1, heads, d) queries
    lse: np.ndarray  # (batch, 1, heads)
    tickets: np.ndarray  # (1,) the next piece of work


@njit
def space_for(threads, heads, d, lengths):  # -> what Space is made of
    batch, first_split = len(lengths), np.zeros(len(lengths) + 1, np.int64)
    for b in range(batch):
        first_split[b + 1] = first_split[b] - (-lengths[b] // split_keys(lengths[b]))
    splits = first_split[batch]
    acc, m = np.empty((splits, heads * d), np.float32), np.empty((splits, heads), np.float32)
    l, s = np.empty((splits, heads * 16), np.float32), np.empty((threads, heads * KEYS), np.float32)
    side, begins = np.empty((threads, 16 * d), np.float32), np.empty((threads, KEYS + AHEAD), np.int64)
    scaled, lse = np.empty((batch, 1, heads, d), np.float32), np.empty((batch, 1, heads), np.float32)
    return first_split, acc, m, l, s, side, begins, scaled, lse, np.empty(1, np.int64)


@njit
def stored_at(address, caches, b, layer, kv_heads):  # -> Stored
    """View the keys, or values, of one layer of sequence b. address: of its first layer's."""
    block, row, head = caches.strides
    return Stored(memory(address + layer * caches.apart[b], caches.like), block, row, head, kv_heads)


@njit
def start_sequence(b, q, new_k, new_v, caches, layer, space):
    """Write sequence b's new key and value to its cache, and scale its query; before the threads start."""
    _, kv_heads, d = new_k.shape
    k = stored_at(caches.k_at[b], caches, b, layer, kv_heads)
    v = stored_at(caches.v_at[b], caches, b, layer, kv_heads)
    newest = caches.lengths[b] - 1
    row = find(newest, Pages(caches.tables[b], caches.size, EVERYTHING, newest + 1), k)[0]
    for g in range(kv_heads):
        for c in range(0, d, 16):
            store_as(k.numbers, row + g * k.head + c, load(new_k[b, g], c))
            store_as(v.numbers, row + g * v.head + c, load(new_v[b, g], c))
    scale = splat(LOG2E / np.float32(math.sqrt(d)))
    for h in range(q.shape[1]):
        for c in range(0, d, 16):
            store(space.scaled[b, 0, h], c, mul(load(q[b, h], c), scale))


@njit
def attend_splits(t, threads, kv_heads, caches, layer, space):
    """Run thread t: take splits from the list, a stretch of neighbouring ones at a time, until there are none."""
    first_split, b = space.first_split, 0
    splits = first_split[len(caches.lengths)]
    stretch = max(1, min(STRETCH, splits // (4 * threads)))
    while True:
        ticket = take_ticket(space.tickets) * stretch
        if ticket >= splits:
            break
        for split in range(ticket, min(ticket + stretch, splits)):
            while split >= first_split[b + 1]:
                b += 1
            n_k, keys = caches.lengths[b], split_keys(caches.lengths[b])
            first = (split - first_split[b]) * keys
            state = State(space.acc[split], space.m[split], space.l[split], space.s[t], space.side[t], space.begins[t])
            k = stored_at(caches.k_at[b], caches, b, layer, kv_heads)
            v = stored_at(caches.v_at[b], caches, b, layer, kv_heads)
            pages, mask = Pages(caches.tables[b], caches.size, EVERYTHING, n_k), MaskRule(n_k - 1, EVERYTHING, True)
            partial(first, min(first + keys, n_k), space.scaled[b], k, v, pages, mask, state)


@njit
def finish_sequence(b, space, out):  # -> whether out[b] is finite
    """Merge the splits of sequence b's query, after all threads have ended."""
    own, poison = slice(space.first_split[b], space.first_split[b + 1]), splat(ZERO)
    merge(space.acc[own], space.m[own], space.l[own], out[b : b + 1], space.lse[b])
    for h in range(out.shape[1]):
        for c in range(0, out.shape[2], 16):
            poison = fma(load(out[b, h], c), splat(ZERO), poison)  # 0 × anything finite stays 0
    return sum_of(poison) == ZERO


@kernel(parallel=True)
def attend_batch(threads, q, new_k, new_v, caches, layer, out):
    """Fill out[b] with the attention of q[b], after row b of new_k and new_v has become the last token of sequence b.

    q, out: (batch, heads, d); new_k, new_v: (batch, kv_heads, d). Returns whether all of out is finite.
    """
    space, good = Space(*space_for(threads, q.shape[1], q.shape[2], caches.lengths)), True
    space.tickets[0] = 0
    for b in range(len(q)):
        start_sequence(b, q, new_k, new_v, caches, layer, space)
    for t in prange(threads):
        attend_splits(t, threads, new_k.shape[1], caches, layer, space)
    for b in range(len(q)):
        good &= finish_sequence(b, space, out)
    return good


LIKE = {4: np.empty(0, np.float32), 2: np.empty(0, np.uint16)}  # by the bytes of a number in a cache; Numba knows no float16


class AttentionStep(step.AttentionStep):
    """As backends/step.py; segments of one token are batched."""

    def __init__(self, ops, segments, spans):
        super().__init__(ops, segments, spans)
        self.kind = kind_of(segments)
        single = [s for s in segments if len(s.tokens) == 1]
        self.together = can_batch([s.cache for s in single])
        if self.together:
            self.caches = [s.cache for s in single]
            self.rows = np.array([span.start for span in spans if span.stop - span.start == 1])
            rest = [(s, span) for s, span in zip(segments, spans, strict=True) if len(s.tokens) > 1]
            self.segments, self.spans = [s for s, _ in rest], [span for _, span in rest]
            self.collect()

    def collect(self):
        """Collect what the kernels read of the caches, once for all layers."""
        for cache in self.caches:
            cache.make_room(1)
        pages = [cache.pages() for cache in self.caches]
        k, width = pages[0][0], pages[0][0].itemsize
        k_at, v_at = (np.array([three[i].ctypes.data for three in pages]) for i in (0, 1))
        apart = np.array([k.strides[0] for k, _, _ in pages])
        tables = np.zeros((len(pages), max(len(table) for _, _, table in pages)), np.int64)
        for row, (_, _, table) in zip(tables, pages, strict=True):
            row[: len(table)] = table
        size = k.shape[2] if k.shape[1] > 1 else EVERYTHING
        lengths = np.array([cache.length + 1 for cache in self.caches])
        strides = np.array(k.strides[1:4]) // width
        self.where = Caches(k_at, v_at, apart, LIKE[width], strides, tables, size, lengths)

    def indices(self):
        """Return none: the kernels read what `collect` found, and longer segments ask their caches."""
        return []

    def place(self, arrays):
        """Ignore it: there is nothing to upload."""

    def attend(self, layer, q, k, v):
        if not self.together:
            return super().attend(layer, q, k, v)
        every = len(self.rows) == len(q)
        mine = (np.ascontiguousarray(x if every else x[self.rows]) for x in (q, k, v))
        out = np.empty((len(self.rows), *q.shape[1:]), np.float32)
        good = attend_batch(numba.get_num_threads(), *mine, self.where, layer, out)
        for cache in self.caches:
            cache.lengths[layer] += 1
        if not good:
            check_finite(out, q=q, k=k, v=v)
        if every:
            return out
        looked_up = super().attend(layer, q, k, v)
        looked_up[self.rows] = out
        return looked_up

    def done(self):
        """Note that all layers have been attended to, in one call (stack.py)."""
        for cache in self.caches:
            cache.lengths = [length + 1 for length in cache.lengths]


def kind_of(segments):  # -> a text: steps of one kind take as long as each other (team.py)
    """Tell steps apart by their tokens, and by what they attend to within a fifth or so."""
    tokens = sum(len(s.tokens) for s in segments)
    seen = sum(len(s.tokens) * s.cache.length for s in segments)
    return f"{tokens} {int(4 * math.log2(256 + seen))}"


def can_batch(caches):
    """Whether there are caches, of one shape, in float32 or float16, with heads of whole registers, and none of them twice."""
    if not caches or not all(hasattr(cache, "pages") for cache in caches):
        return False
    kinds = set()
    for k, _, _ in (cache.pages() for cache in caches):
        blocks = k.shape[1:3] + k.strides[:2] if k.shape[1] > 1 else ()  # a cache of one block may be of any length
        kinds.add((k.dtype.str, k.shape[0], *k.shape[3:], *k.strides[2:], blocks))
    dtype, _, _, d, *_ = next(iter(kinds))
    return len(kinds) == 1 and dtype in ("<f4", "<f2") and d % 16 == 0 and len(set(map(id, caches))) == len(caches)
