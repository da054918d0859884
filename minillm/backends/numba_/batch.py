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

import numba
import numpy as np
from numba import carray, njit, prange, types
from numba.extending import intrinsic

from minillm.attention.shapes import check_finite
from minillm.backends import step
from minillm.backends.numba_.compiled import kernel
from minillm.backends.numba_.decode import merge, partial, split_keys
from minillm.backends.numba_.online import KEYS, LOG2E, ZERO
from minillm.backends.numba_.pages import EVERYTHING, find
from minillm.backends.numba_.simd import take_ticket


@intrinsic
def pointer(typing, address, like):
    """An address as a pointer to numbers of the same type as those of an array."""
    result = types.CPointer(like.dtype)

    def emit(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(result))

    return result(types.int64, like), emit


@njit(error_model="numpy")
def memory(address, like):
    """All that lies from an address on, as a flat array."""
    return carray(pointer(address, like), (EVERYTHING,))


@kernel(parallel=True)
def attend_batch(threads, q, new_k, new_v, k_at, v_at, strides, tables, size, lengths, out):
    """Write row b of new_k and new_v as token lengths[b] - 1 of sequence b; fill out[b] with the attention of q[b].

    q, out: (batch, heads, d); k_at, v_at: (batch,) addresses of a layer's keys and values, in blocks of `size` tokens whose
    strides (elements from block to block, token to token, head to head) are all the same; tables: (batch, most blocks).
    Returns whether all of out is finite.
    """
    batch, heads, d = q.shape
    kv_heads, scale = new_k.shape[1], LOG2E / np.float32(math.sqrt(d))
    first_split = np.empty(batch + 1, np.int64)
    first_split[0] = 0
    for b in range(batch):
        first_split[b + 1] = first_split[b] - (-lengths[b] // split_keys(lengths[b]))
    splits = first_split[batch]
    acc, m = np.empty((splits, heads * d), np.float32), np.empty((splits, heads), np.float32)
    l, s = np.empty((splits, heads * 16), np.float32), np.empty((threads, heads * KEYS), np.float32)
    side, scaled = np.empty((threads, 16 * d), np.float32), np.empty((batch, 1, heads, d), np.float32)
    begins, lse, tickets = np.empty((threads, KEYS), np.int64), np.empty((1, heads), np.float32), np.empty(1, np.int64)
    tickets[0] = 0

    for b in range(batch):
        pages = tables[b], size, EVERYTHING
        for at, new in ((k_at[b], new_k[b]), (v_at[b], new_v[b])):
            place, row = memory(at, q), find(lengths[b] - 1, pages, strides)[0]
            for g in range(kv_heads):
                for c in range(d):
                    place[row + g * strides[2] + c] = new[g, c]
        for h in range(heads):
            for c in range(d):
                scaled[b, 0, h, c] = q[b, h, c] * scale

    for t in prange(threads):
        b = 0
        while True:
            ticket = take_ticket(tickets)
            if ticket >= splits:
                break
            while ticket >= first_split[b + 1]:
                b += 1
            n_k, keys = lengths[b], split_keys(lengths[b])
            first = (ticket - first_split[b]) * keys
            state = acc[ticket], m[ticket], l[ticket], s[t], side[t], begins[t]
            k, v = (memory(k_at[b], q), strides), (memory(v_at[b], q), strides)
            mask = n_k - 1, EVERYTHING, True
            partial(first, min(first + keys, n_k), scaled[b], k, v, kv_heads, (tables[b], size, EVERYTHING), mask, state)

    poison = ZERO
    for b in range(batch):
        own = slice(first_split[b], first_split[b + 1])
        merge(acc[own], m[own], l[own], out[b : b + 1], lse)
        for x in out[b].reshape(-1):
            poison += x * ZERO  # 0 × anything finite stays 0
    return poison == ZERO


class AttentionStep(step.AttentionStep):
    """As backends/step.py; segments of one token over float32 caches are answered together."""

    def __init__(self, ops, segments, spans):
        super().__init__(ops, segments, spans)
        single = [s for s in segments if len(s.tokens) == 1]
        self.together = ops.attention.__module__.startswith(__package__) and can_batch([s.cache for s in single])
        if self.together:
            self.caches = [s.cache for s in single]
            self.rows = np.array([span.start for span in spans if span.stop - span.start == 1])
            rest = [(s, span) for s, span in zip(segments, spans, strict=True) if len(s.tokens) > 1]
            self.segments, self.spans = [s for s, _ in rest], [span for _, span in rest]
            self.collect()

    def collect(self):
        """What the kernel needs to know of the caches, once for all layers."""
        for cache in self.caches:
            cache.make_room(1)
        pages = [cache.pages() for cache in self.caches]
        k = pages[0][0]
        width = k.itemsize
        self.layer_stride, self.strides = k.strides[0], tuple(stride // width for stride in k.strides[1:4])
        self.size = k.shape[2] if len(k[0]) > 1 else EVERYTHING
        self.k_at = np.array([k.ctypes.data for k, _, _ in pages])
        self.v_at = np.array([v.ctypes.data for _, v, _ in pages])
        self.tables = np.zeros((len(pages), max(len(table) for _, _, table in pages)), np.int64)
        for row, (_, _, table) in zip(self.tables, pages, strict=True):
            row[: len(table)] = table
        self.lengths = np.array([cache.length + 1 for cache in self.caches])

    def attend(self, layer, q, k, v):
        if not self.together:
            return super().attend(layer, q, k, v)
        every = len(self.rows) == len(q)
        mine = (np.ascontiguousarray(x if every else x[self.rows]) for x in (q, k, v))
        out = np.empty((len(self.rows), *q.shape[1:]), np.float32)
        places = self.k_at + layer * self.layer_stride, self.v_at + layer * self.layer_stride
        where = *places, self.strides, self.tables, self.size, self.lengths
        good = attend_batch(numba.get_num_threads(), *mine, *where, out)
        for cache in self.caches:
            cache.lengths[layer] += 1
        if not good:
            check_finite(out, q=q, k=k, v=v)
        if every:
            return out
        looked_up = super().attend(layer, q, k, v)
        looked_up[self.rows] = out
        return looked_up


def can_batch(caches):
    """Are there caches, of one shape, in float32, with heads of whole registers, and in turn after a whole step?"""
    if not caches or not all(hasattr(cache, "pages") for cache in caches):
        return False
    shapes = {(k.dtype.str, k.shape[0], k.shape[2:], k.strides) for k, _, _ in (cache.pages() for cache in caches)}
    dtype, _, (_, _, d), _ = next(iter(shapes))
    return len(shapes) == 1 and dtype == "<f4" and d % 16 == 0 and len(set(map(id, caches))) == len(caches)
