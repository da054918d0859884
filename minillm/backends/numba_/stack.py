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
from typing import NamedTuple

import numba
import numpy as np
from numba import njit, prange

from minillm import layers as reference
from minillm.attention.shapes import check_finite
from minillm.backends.numba_.bands import Operand, handle_at, room
from minillm.backends.numba_.batch import Space, attend_splits, finish_sequence, space_for, start_sequence
from minillm.backends.numba_.compiled import kernel
from minillm.backends.numba_.crossover import SERIAL
from minillm.backends.numba_.layer import Rotation, any_rounds, feed_forward_rows, norm_rows, rope_row
from minillm.backends.numba_.linear import can_fuse, handle, round_row
from minillm.backends.numba_.loops import ADD, FRESH
from minillm.backends.numba_.team import seconds, team
from minillm.backends.numba_.thin import GATE, MATRICES, K, O, Q, RoutedLayers, Thin, V, low_room, product


class Model(NamedTuple):
    """All layers of a model, as the kernel sees them."""

    handles: np.ndarray  # (layers, 7, 6) int64, in the order of MATRICES
    norms: np.ndarray  # (layers, 2, d_model): before attention, before the feed-forward part
    eps: np.float32


class Layers(list):
    """The layers of a model, with what the kernel needs of them."""

    @cached_property
    def whole(self):
        """Whether they can run in one kernel: matrices for kernels, with nothing between q, k, v and RoPE."""
        return all(can_fuse(*matrices(w)) and w.q_bias is None and w.q_norm is None for w in self)

    @cached_property
    def handles(self):
        """Model.handles."""
        return np.array([[handle(matrix) for matrix in matrices(w)] for w in self], np.int64)

    @cached_property
    def norms(self):
        """Model.norms."""
        return np.array([[w.attn_norm, w.ffn_norm] for w in self], np.float32)


def matrices(w):  # LayerWeights -> its seven
    return [getattr(w, name) for name in MATRICES]


def run_layers(x, layers, c, angles, step):  # (tokens, d_model), Layers ... -> (tokens, d_model)
    """Run layers.run_layers, with as many threads as there are cores for them. step: batch.AttentionStep."""
    with team(step.kind) as now:
        return run_all_layers(x, layers, c, angles, step, now)


def run_all_layers(x, layers, c, angles, step, now):
    """Run them in one call, where that can be; in two, where the first lost its time and the rest gets fewer threads."""
    routed = layers if isinstance(layers, RoutedLayers) else None
    base = routed.layers if routed else layers
    if not (step.together and not step.segments and isinstance(base, Layers) and base.whole):
        return reference.run_layers(x, layers, c, angles, step)
    x, model = np.array(x, np.float32, order="C"), Model(base.handles, base.norms, np.float32(c.norm_eps))
    rotation = Rotation(c.n_heads, c.n_kv_heads, c.d_head, *angles, c.rope_interleaved)
    routes = (routed or RoutedLayers(base, ())).routes()
    done, good = 0, True
    while done < len(base):
        if done:
            now.go_on_with_fewer()
        done, fine = decode(numba.get_num_threads(), done, now.until, x, model, rotation, step.where, routes)
        good &= fine
    if not good:
        check_finite(np.full(1, np.nan))
    step.done()
    return x


@njit(inline="always")
def attend_rows(threads, q, k, v, rotation, caches, layer, space, found, rounds):
    """Apply RoPE to q and k, extend the caches, attend to found.x; and round that, where o wants it."""
    n, heads, kv_heads, d = len(q), rotation.heads, rotation.kv_heads, rotation.d
    q3, k3, v3 = q.reshape(n, heads, d), k.reshape(n, kv_heads, d), v.reshape(n, kv_heads, d)
    found3, good = found.x.reshape(n, heads, d), np.empty(n, np.bool_)
    space.tickets[0] = 0
    if n <= SERIAL:
        for b in range(n):
            rope_row(q[b], heads, b, rotation)
            rope_row(k[b], kv_heads, b, rotation)
            start_sequence(b, q3, k3, v3, caches, layer, space)
    else:
        for b in prange(n):
            rope_row(q[b], heads, b, rotation)
            rope_row(k[b], kv_heads, b, rotation)
            start_sequence(b, q3, k3, v3, caches, layer, space)
    for t in prange(threads):
        attend_splits(t, threads, kv_heads, caches, layer, space)
    if n <= SERIAL:
        for b in range(n):
            good[b] = finish_sequence(b, space, found3)
            if rounds:
                round_row(found, b)
    else:
        for b in prange(n):
            good[b] = finish_sequence(b, space, found3)
            if rounds:
                round_row(found, b)
    return all_of(good)


@njit
def all_of(flags):
    good = True
    for flag in flags:
        good &= flag
    return good


@kernel(parallel=True)
def decode(threads, first, until, x, model, rotation, caches, routes):
    """Run the layers from `first` on, in place of x, to the last or to the one at whose end it is later than `until`.

    Returns the number of layers done, and whether what every attention found is finite.
    """
    n, d_model = x.shape
    wide, narrow, good = rotation.heads * rotation.d, rotation.kv_heads * rotation.d, True
    h = Operand(np.empty((n, d_model), np.float32), *room(n, d_model))
    q, k, v = np.empty((n, wide), np.float32), np.empty((n, narrow), np.float32), np.empty((n, narrow), np.float32)
    found = Operand(np.empty((n, wide), np.float32), *room(n, wide))
    space, low = Space(*space_for(threads, rotation.heads, rotation.d, caches.lengths)), low_room(threads, routes)
    done = first
    while done < len(model.handles) and (done == first or seconds() < until):
        i, done = done, done + 1
        handles, norms, thin = model.handles[i], model.norms[i], Thin(routes.runs, routes.handles[i], low)
        norm_rows(x, norms[0], model.eps, h, any_rounds(handles, Q, V))
        for part in prange(threads):
            product(part, threads, FRESH, handles, thin, Q, h, q)
            product(part, threads, FRESH, handles, thin, K, h, k)
            product(part, threads, FRESH, handles, thin, V, h, v)
        good &= attend_rows(threads, q, k, v, rotation, caches, i, space, found, handle_at(handles, O).rounds)
        for part in prange(threads):
            product(part, threads, ADD, handles, thin, O, found, x)
        feed_forward_rows(threads, x, norms[1], model.eps, handles, thin, GATE, x)
    return done, good
