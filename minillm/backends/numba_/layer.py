"""A layer in two calls: norm, products, activation and residual of each half without going back to Python in between.

A token of a small model passes two hundred matrices in two milliseconds. At ten microseconds a matrix, getting in and
out of a compiled function would double that. So what happens between two attentions is one function: `attention_inputs`
is norm, q, k, v, and their rotation; `add_feed_forward` norm, gate and up, their product, down, and the addition.

Fusing saves more than calls. The normed row is used by all matrices that share it while it is in the first cache, as it is
by float ones, rounded to 16 bits once for the packed ones; and x is never written to be read again. What each token needs
for itself (norm, rounding, activation) is shared among cores by tokens, what all share (matrices) by bands of rows.
"""

from typing import NamedTuple

import numba
import numpy as np
from numba import njit, prange

from minillm import layers
from minillm.backends.adapted import wide
from minillm.backends.numba_.bands import Operand, handle_at, room
from minillm.backends.numba_.compiled import kernel
from minillm.backends.numba_.crossover import SERIAL
from minillm.backends.numba_.linear import can_fuse, handle, linear, round_row, widened
from minillm.backends.numba_.loops import ADD, FRESH
from minillm.backends.numba_.packed import BAND
from minillm.backends.numba_.simd import fma, load, mul, splat, store, sum_of, swiglu16
from minillm.backends.numba_.thin import K, Q, Thin, V, low_room, product, routes_of


class Rotation(NamedTuple):
    """The rotation of queries and keys to their positions (layers.rope). heads 0: none now."""

    heads: int
    kv_heads: int
    d: int  # of a head
    cos: np.ndarray  # (n, d / 2)
    sin: np.ndarray
    interleaved: bool


@njit(inline="always")
def norm_row(x, weight, eps, out):
    """Apply layers.rms_norm to one token; d is a multiple of 16."""
    squares = splat(np.float32(0))
    for c in range(0, len(x), 16):
        squares = fma(load(x, c), load(x, c), squares)
    scale = splat(np.float32(1) / np.sqrt(sum_of(squares) / np.float32(len(x)) + eps))
    for c in range(0, len(x), 16):
        store(out, c, mul(mul(load(x, c), scale), load(weight, c)))


@njit(inline="always")
def rope_row(x, heads, t, rotation):
    """Apply layers.rope to one token, in place, on the first `heads` heads of x."""
    d, cos, sin = rotation.d, rotation.cos[t], rotation.sin[t]
    step, apart = (2, 1) if rotation.interleaved else (1, d // 2)
    for h in range(heads):
        for i in range(d // 2):
            first = h * d + i * step
            a, b = x[first], x[first + apart]
            x[first] = a * cos[i] - b * sin[i]
            x[first + apart] = a * sin[i] + b * cos[i]


@njit(inline="always")
def norm_rows(x, norm, eps, h, rounds):
    """Normalize all tokens, to h.x; and round them, where a matrix wants it."""
    if len(x) <= SERIAL:
        for t in range(len(x)):
            norm_row(x[t], norm, eps, h.x[t])
            if rounds:
                round_row(h, t)
    else:
        for t in prange(len(x)):
            norm_row(x[t], norm, eps, h.x[t])
            if rounds:
                round_row(h, t)


@njit(inline="always")
def rope_rows(q, k, rotation):
    """Apply layers.rope to queries and keys, in place."""
    if len(q) <= SERIAL:
        for t in range(len(q)):
            rope_row(q[t], rotation.heads, t, rotation)
            rope_row(k[t], rotation.kv_heads, t, rotation)
    else:
        for t in prange(len(q)):
            rope_row(q[t], rotation.heads, t, rotation)
            rope_row(k[t], rotation.kv_heads, t, rotation)


@njit
def any_rounds(handles, first, last):
    """Whether any of these matrices wants x rounded."""
    wanted = False
    for matrix in range(first, last + 1):
        wanted |= handle_at(handles, matrix).rounds != 0
    return wanted


@kernel(parallel=True)
def inputs(threads, x, norm, eps, handles, outputs, rotation, routes):
    """Compute x → norm → q, k, v → rope. handles: (3, 6), of q, k and v; outputs: their arrays."""
    q, k, v = outputs
    h = Operand(np.empty(x.shape, np.float32), *room(*x.shape))
    thin = Thin(routes.runs, routes.handles[0], low_room(threads, routes))
    norm_rows(x, norm, eps, h, any_rounds(handles, Q, V))
    for part in prange(threads):
        product(part, threads, FRESH, handles, thin, Q, h, q)
        product(part, threads, FRESH, handles, thin, K, h, k)
        product(part, threads, FRESH, handles, thin, V, h, v)
    rope_rows(q, k, rotation)


@kernel(parallel=True)
def rope_inputs(q, k, rotation):
    """Apply RoPE alone, for models that do something before it."""
    rope_rows(q, k, rotation)


@njit(inline="always")
def feed_forward_rows(threads, x, norm, eps, handles, thin, gate, y):
    """y += down(swiglu(gate(norm(x)), up(norm(x)))) of all tokens; y may be x. gate: where it stands, followed by up and down."""
    n, d = x.shape
    d_ff, rounds = BAND * handle_at(handles, gate).bands, handle_at(handles, gate + 2).rounds
    h = Operand(np.empty((n, d), np.float32), *room(n, d))
    gated, up = Operand(np.empty((n, d_ff), np.float32), *room(n, d_ff)), np.empty((n, d_ff), np.float32)
    norm_rows(x, norm, eps, h, any_rounds(handles, gate, gate + 1))
    for part in prange(threads):
        product(part, threads, FRESH, handles, thin, gate, h, gated.x)
        product(part, threads, FRESH, handles, thin, gate + 1, h, up)
    if n <= SERIAL:
        for t in range(n):
            gate_row(gated, up, t, rounds)
    else:
        for t in prange(n):
            gate_row(gated, up, t, rounds)
    for part in prange(threads):
        product(part, threads, ADD, handles, thin, gate + 2, gated, y)


@kernel(parallel=True)
def feed_forward(threads, x, norm, eps, handles, routes, y):
    """Call feed_forward_rows. handles: (3, 6), of gate, up and down."""
    thin = Thin(routes.runs, routes.handles[0], low_room(threads, routes))
    feed_forward_rows(threads, x, norm, eps, handles, thin, 0, y)


@njit(inline="always")
def gate_row(gated, up, t, rounds):
    """Apply layers.swiglu to one token, in place of gated.x; and round it, where the next matrix wants it."""
    gate, beside = gated.x[t], up[t]
    for c in range(0, len(gate), 16):
        swiglu16(gate, beside, c)
    if rounds:
        round_row(gated, t)


def attention_inputs(x, w, c, cos, sin):
    """Compute layers.attention_inputs."""
    matrices = [wide(weight) for weight in (w.q, w.k, w.v)]
    if not can_fuse(*matrices):
        return layers.attention_inputs(x, w, c, cos, sin, linear=linear)
    x = np.ascontiguousarray(x, np.float32)
    n, eps, plain = len(x), np.float32(c.norm_eps), not (c.qk_norm or w.q_bias is not None)
    q, k, v = (np.empty((n, matrix.padded_rows), np.float32) for matrix in matrices)
    rotation = Rotation(c.n_heads, c.n_kv_heads, c.d_head, cos, sin, c.rope_interleaved)
    now = rotation if plain else rotation._replace(heads=0, kv_heads=0)
    handles, routes = np.array([handle(matrix) for matrix in matrices], np.int64), routes_of(w.q, w.k, w.v)
    inputs(numba.get_num_threads(), x, w.attn_norm, eps, handles, (q, k, v), now, routes)
    if not plain:
        for y, heads, bias, norm in ((q, c.n_heads, w.q_bias, w.q_norm), (k, c.n_kv_heads, w.k_bias, w.k_norm)):
            y[:, : heads * c.d_head] = adjusted(y[:, : heads * c.d_head], bias, norm, heads, c)
        if w.v_bias is not None:
            v[:, : len(w.v_bias)] += w.v_bias
        rope_inputs(q, k, rotation)
    return tuple(heads_of(y, heads, c.d_head) for y, heads in ((q, c.n_heads), (k, c.n_kv_heads), (v, c.n_kv_heads)))


def adjusted(y, bias, norm, heads, c):  # (n, heads · d) -> (n, heads · d)
    """Apply bias, then the norm of each head, where the model has them."""
    y = y if bias is None else y + bias
    return y if norm is None else layers.rms_norm(y.reshape(len(y), heads, -1), norm, c.norm_eps).reshape(len(y), -1)


def heads_of(y, heads, d):  # (n, ≥ heads · d) -> (n, heads, d)
    return y[:, : heads * d].reshape(len(y), heads, d)  # a copy only where the last band was not full


def add_feed_forward(x, w, c):
    """Compute layers.add_feed_forward."""
    matrices = [wide(weight) for weight in (w.gate, w.up, w.down)]
    if not can_fuse(*matrices):
        return layers.add_feed_forward(x, w, c, linear=linear)
    x = np.ascontiguousarray(x, np.float32)
    y, handles = widened(x, matrices[-1].padded_rows), np.array([handle(matrix) for matrix in matrices], np.int64)
    routes = routes_of(w.gate, w.up, w.down)
    feed_forward(numba.get_num_threads(), x, w.ffn_norm, np.float32(c.norm_eps), handles, routes, y)
    return y[:, : x.shape[1]]
