"""All layers of a decode step in one call: from the embedded tokens to what the head reads, without Python in between.

A decode step of one token is two milliseconds of reading weights, cut into a hundred and twenty pieces by the layers:
inputs, attention, output, feed-forward, thirty times. Each trip from Python into compiled code and back costs as much as
a fifth of the piece. So where every segment of a step is one token, the loop over the layers is compiled too. It is the
loop of layers.run_layers, made of the very parts that the separate calls are made of: same operations in the same order,
same bits.

    for each layer:  norm ─ q,k,v ─ rope │ attention of every sequence │ o + x │ norm ─ gate,up ─ swiglu │ down + x
                     └ five regions, │ marks where the threads wait for one another ┘

The matrices of a layer may be of any types, packed or float, since each brings its own code (bands.py).
"""

from functools import cached_property

import numba
import numpy as np
from numba import njit, prange

from minillm import layers as reference
from minillm.attention.shapes import check_finite
from minillm.backends.numba_.bands import share, tape_at
from minillm.backends.numba_.batch import enter, leave, room_for, work_off
from minillm.backends.numba_.compiled import kernel
from minillm.backends.numba_.crossover import SERIAL
from minillm.backends.numba_.layer import feed_forward_rows, norm_rows, turn_row
from minillm.backends.numba_.linear import ADD, FRESH, fused, room, round_row, rounds, tape
from minillm.backends.numba_.thin import MATRICES, RoutedLayers, add_thin, low_room


class Layers(list):
    """The layers of a model, and what the kernel must know of them."""

    @cached_property
    def whole(self):
        """Can they be taken together: matrices for kernels, with nothing between q, k, v and their turning?"""
        return all(fused(*matrices(w)) and w.q_bias is None and w.q_norm is None for w in self)

    @cached_property
    def tapes(self):
        """(layers, 7, 6) int64."""
        return np.array([[tape(matrix) for matrix in matrices(w)] for w in self], np.int64)

    @cached_property
    def norms(self):
        """(layers, 2, d_model) float32: before attention, before the feed-forward part."""
        return np.array([[w.attn_norm, w.ffn_norm] for w in self], np.float32)


def matrices(w):  # LayerWeights -> its seven
    return [getattr(w, name) for name in MATRICES]


def run_layers(x, layers, c, angles, step):  # (tokens, d_model), Layers ... -> (tokens, d_model)
    """As layers.run_layers. step: batch.AttentionStep."""
    routed = layers if isinstance(layers, RoutedLayers) else None
    base = routed.layers if routed else layers
    if not (step.together and not step.segments and isinstance(base, Layers) and base.whole):
        return reference.run_layers(x, layers, c, angles, step)
    x, shape, turning = np.array(x, np.float32, order="C"), (c.n_heads, c.n_kv_heads, c.d_head), (*angles, c.rope_interleaved)
    model, threads = (base.tapes, base.norms, np.float32(c.norm_eps)), numba.get_num_threads()
    runs, thin = (routed or RoutedLayers(base, ())).thin()
    good = decode(x, *model, shape, turning, step.where, threads, runs, thin)
    if not good:
        check_finite(np.full(1, np.nan))
    step.done()
    return x


@njit(inline="always")
def attend_rows(threads, q, k, v, heads, kv_heads, d, turning, caches, layer, space, answers):
    """q and k turned, the caches extended, every query answered, and the answers rounded, where the next product wants it."""
    n, good, found = len(q), np.empty(len(q), np.bool_), answers[0]
    q3, k3, v3, found3 = q.reshape(n, heads, d), k.reshape(n, kv_heads, d), v.reshape(n, kv_heads, d), found.reshape(n, heads, d)
    (cos, sin, interleaved), (_, rounded, codes, scale, sums) = turning, answers
    space[-1][0] = 0
    if n <= SERIAL:
        for b in range(n):
            turn_row(q[b], heads, d, cos[b], sin[b], interleaved)
            turn_row(k[b], kv_heads, d, cos[b], sin[b], interleaved)
            enter(b, q3, k3, v3, caches, layer, space)
    else:
        for b in prange(n):
            turn_row(q[b], heads, d, cos[b], sin[b], interleaved)
            turn_row(k[b], kv_heads, d, cos[b], sin[b], interleaved)
            enter(b, q3, k3, v3, caches, layer, space)
    for t in prange(threads):
        work_off(t, threads, kv_heads, caches, layer, space)
    if n <= SERIAL:
        for b in range(n):
            good[b] = leave(b, space, found3)
            if rounded:
                round_row(found[b], codes[b], scale[b], sums[b])
    else:
        for b in prange(n):
            good[b] = leave(b, space, found3)
            if rounded:
                round_row(found[b], codes[b], scale[b], sums[b])
    return all_of(good)


@njit
def all_of(flags):
    good = True
    for flag in flags:
        good &= flag
    return good


@kernel(parallel=True)
def decode(x, tapes, norms, eps, shape, turning, caches, threads, runs, thin):
    """The loop over the layers. Adds to x in place; returns whether what every attention found is finite."""
    (heads, kv_heads, d), (n, d_model), good = shape, x.shape, True
    q, found = np.empty((n, heads * d), np.float32), np.empty((n, heads * d), np.float32)
    k, v = np.empty((n, kv_heads * d), np.float32), np.empty((n, kv_heads * d), np.float32)
    h, (codes, scale, sums), (codes_o, scale_o, sums_o) = np.empty((n, d_model), np.float32), room(n, d_model), room(n, heads * d)
    space, low = room_for(threads, n, heads, d, caches[-1]), low_room(threads, runs, thin)
    for i in range(len(tapes)):
        q_, k_, v_, o_ = tape_at(tapes[i], 0), tape_at(tapes[i], 1), tape_at(tapes[i], 2), tape_at(tapes[i], 3)
        norm_rows(x, norms[i, 0], eps, h, rounds(q_) or rounds(k_) or rounds(v_), codes, scale, sums)
        for part in prange(threads):
            share(part, threads, FRESH, q_, h, codes, scale, sums, q)
            share(part, threads, FRESH, k_, h, codes, scale, sums, k)
            share(part, threads, FRESH, v_, h, codes, scale, sums, v)
            add_thin(part, threads, runs, thin[i], 0, h, codes, scale, sums, q, low)
            add_thin(part, threads, runs, thin[i], 1, h, codes, scale, sums, k, low)
            add_thin(part, threads, runs, thin[i], 2, h, codes, scale, sums, v, low)
        answers = found, rounds(o_), codes_o, scale_o, sums_o
        good &= attend_rows(threads, q, k, v, heads, kv_heads, d, turning, caches, i, space, answers)
        for part in prange(threads):
            share(part, threads, ADD, o_, found, codes_o, scale_o, sums_o, x)
            add_thin(part, threads, runs, thin[i], 3, found, codes_o, scale_o, sums_o, x, low)
        gate, up, down = tape_at(tapes[i], 4), tape_at(tapes[i], 5), tape_at(tapes[i], 6)
        feed_forward_rows(x, norms[i, 1], eps, gate, up, down, x, threads, runs, thin[i], 4, low)
    return good
