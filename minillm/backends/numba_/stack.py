"""All layers of a step in one call: from the embedded tokens to what the head reads, without Python in between.

A decode step of one token is two milliseconds of reading weights, cut into a hundred and fifty pieces by the layers:
inputs, attention, output, feed-forward, thirty times. Each trip from Python into compiled code and back costs as much as
a fifth of the piece. So where every segment of a step is short, the loop over the layers is compiled too. It is the
loop of layers.run_layers, made of the very parts that the separate calls are made of: same operations in the same order,
same bits.

    for each layer:  norm │ q,k,v │ rope │ attention of every row │ o + x │ norm │ gate,up │ swiglu │ down + x
                     regions of tasks (tasks.py); what few tokens need for themselves, each thread does for itself

The matrices of a layer may be of any types, packed or float, since each brings its own code (bands.py).
"""

from functools import cached_property
from typing import NamedTuple

import numpy as np
from numba import njit

from minillm import layers as reference
from minillm.backends.numba_.atomics import job
from minillm.backends.numba_.bands import Operand, handle_at, new_operand, with_room
from minillm.backends.numba_.compiled import kernel
from minillm.backends.numba_.handles import handle
from minillm.backends.numba_.layer import Rotation, gate_rows, norm_rows, own_or, rounding
from minillm.backends.numba_.linear import can_fuse, widened
from minillm.backends.numba_.multiply import multiply, product_tasks
from minillm.backends.numba_.packed import BAND
from minillm.backends.numba_.rows import attend_rows, attention_tasks, scratch_of, space_of
from minillm.backends.numba_.tasks import new_board, worker
from minillm.backends.numba_.team import launch, team, threads
from minillm.backends.numba_.thin import MATRICES, RoutedLayers, Thin, low_room

Q_K_V, O = np.array([0, 3, 0]), np.array([3, 4, 1])  # multiply.py: the matrices of a region, and whether y counts
GATE_UP, DOWN = np.array([4, 6, 0]), np.array([6, 7, 1])


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
    """Run layers.run_layers: in one call, where that can be. step: batch.AttentionStep."""
    routed = layers if isinstance(layers, RoutedLayers) else None
    base = routed.layers if routed else layers
    if not (step.together and not step.segments and isinstance(base, Layers) and base.whole):
        return reference.run_layers(x, layers, c, angles, step)
    x, model = widened(x, x.shape[1]), Model(base.handles, base.norms, np.float32(c.norm_eps))
    turned = (np.ascontiguousarray(part, np.float32) for part in angles)
    rotation = Rotation(c.n_heads, c.n_kv_heads, c.d_head, *turned, c.rope_interleaved, True)
    routes = (routed or RoutedLayers(base, ())).routes()
    with team() as words:
        good = decode(words, threads(), x, model, rotation, step.where, routes)
    if not good:
        step.refuse()
    step.done()
    return x


class Rooms(NamedTuple):
    """What the threads write for each other, in every layer anew."""

    h: Operand  # x, normed
    qkv: np.ndarray
    found: Operand  # what attention found
    pair: np.ndarray  # gate │ up
    gated: Operand


@njit
def decode_part(number, threads, board, x, model, rotation, caches, routes, space, rooms):
    """Run all layers, in place of x."""
    w = worker(number, threads, board)
    h, found, gated = own_or(rooms.h), own_or(rooms.found), own_or(rooms.gated)
    qkv, pair, scratch, low = rooms.qkv, rooms.pair, scratch_of(rotation, len(x), space), low_room(routes)
    for i in range(len(model.handles)):
        handles, norms, thin = model.handles[i], model.norms[i], Thin(routes.runs, routes.handles[i], low)
        norm_rows(w, x, norms[0], model.eps, h, rounding(handles, Q_K_V))
        multiply(w, Q_K_V, handles, thin, h, qkv)
        attend_rows(w, qkv, rotation, caches, i, space, scratch, found, handle_at(handles, O[0]).rounds)
        multiply(w, O, handles, thin, found, x)
        norm_rows(w, x, norms[1], model.eps, h, rounding(handles, GATE_UP))
        multiply(w, GATE_UP, handles, thin, h, pair)
        gate_rows(w, pair, gated, handle_at(handles, DOWN[0]).rounds)
        multiply(w, DOWN, handles, thin, gated, x)


@kernel()
def decode(words, threads, x, model, rotation, caches, routes):
    """Run all layers of a step, in place of x. Returns whether all is well: what was appended, and what every attention found."""
    (n, d_model), wide, narrow = x.shape, rotation.heads * rotation.d, rotation.kv_heads * rotation.d
    handles, space = model.handles[0], space_of(rotation.heads, rotation.d, caches)
    d_ff, tasks = BAND * handle_at(handles, GATE_UP[0]).bands, max(product_tasks(threads), attention_tasks(space, threads))
    rows = with_room(n)
    qkv, pair = np.empty((rows, wide + 2 * narrow), np.float32)[:n], np.empty((rows, 2 * d_ff), np.float32)[:n]
    rooms = Rooms(new_operand(n, d_model), qkv, new_operand(n, wide), pair, new_operand(n, d_ff))
    launch(words, job(decode_part, (threads, new_board(threads, tasks), x, model, rotation, caches, routes, space, rooms)))
    return space.good[0] == 1
