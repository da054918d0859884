"""A layer in two calls: norm, products, activation and residual of each half without going back to Python in between.

A token of a small model passes two hundred matrices in two milliseconds. At ten microseconds a matrix, getting in and
out of a compiled function would double that. So what happens between two attentions is one function: `attention_inputs`
is norm, q, k, v, and their rotation; `add_feed_forward` norm, gate and up, their product, down, and the addition.

Fusing saves more than calls. The normed row is used by all matrices that share it while it is in the first cache, as it is
by float ones, rounded to 16 bits once for the packed ones; and x is never written to be read again. What each token needs
for itself (norm, rounding, activation) is shared among cores by tokens, what all share (matrices) by bands of rows.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from minillm import layers
from minillm.backends.adapted import wide
from minillm.backends.numba_.atomics import job
from minillm.backends.numba_.bands import handle_at, new_operand, with_room
from minillm.backends.numba_.compiled import kernel
from minillm.backends.numba_.crossover import SERIAL
from minillm.backends.numba_.handles import handle
from minillm.backends.numba_.linear import can_fuse, linear, widened
from minillm.backends.numba_.multiply import multiply, product_tasks, round_row
from minillm.backends.numba_.packed import BAND
from minillm.backends.numba_.simd import add, fma, load, mul, splat, store, sub, sum_of, swiglu16
from minillm.backends.numba_.tasks import begin_rows, new_board, next_rows, worker
from minillm.backends.numba_.team import launch, team, threads
from minillm.backends.numba_.thin import Thin, low_room, routes_of

ONE = np.float32(1)
Q_K_V = np.array([0, 3, 0])  # multiply.py: matrices of a table of handles, and whether y counts
GATE_UP, DOWN = np.array([0, 2, 0]), np.array([2, 3, 1])


class Rotation(NamedTuple):
    """The rotation of queries and keys to their positions (layers.rope)."""

    heads: int
    kv_heads: int
    d: int  # of a head
    cos: np.ndarray  # (n, d / 2)
    sin: np.ndarray
    interleaved: bool
    turns: bool  # or not now


@njit
def norm_row(x, weight, eps, out):
    """Apply layers.rms_norm to one token; d is a multiple of 16."""
    squares = splat(np.float32(0))
    for c in range(0, len(x), 16):
        squares = fma(load(x, c), load(x, c), squares)
    scale = splat(np.float32(1) / np.sqrt(sum_of(squares) / np.float32(len(x)) + eps))
    for c in range(0, len(x), 16):
        store(out, c, mul(mul(load(x, c), scale), load(weight, c)))


@njit
def rope_row(x, at, heads, t, rotation, out, to, scale=ONE):
    """Apply layers.rope to one token, times scale: heads that begin at x[at], to out[to …]. Without rotation they are copied."""
    d, half = rotation.d, rotation.d // 2
    if rotation.turns and not rotation.interleaved and half % 16 == 0:
        factor, angle = splat(scale), t * half
        for first in range(0, heads * d, d):
            for i in range(first, first + half, 16):
                cos, sin = load(rotation.cos, angle + i - first), load(rotation.sin, angle + i - first)
                a, b = load(x, at + i), load(x, at + i + half)
                store(out, to + i, mul(sub(mul(a, cos), mul(b, sin)), factor))
                store(out, to + i + half, mul(add(mul(a, sin), mul(b, cos)), factor))
    elif rotation.turns:
        cos, sin = rotation.cos[t], rotation.sin[t]
        step, apart = (2, 1) if rotation.interleaved else (1, half)
        for h in range(heads):
            for i in range(half):
                first = h * d + i * step
                a, b = x[at + first], x[at + first + apart]
                out[to + first] = (a * cos[i] - b * sin[i]) * scale
                out[to + first + apart] = (a * sin[i] + b * cos[i]) * scale
    else:
        for i in range(heads * d):
            out[to + i] = x[at + i] * scale


@njit
def norm_rows(w, x, norm, eps, h, rounds):
    """Normalize all tokens, to h.x; and round them, where a matrix wants it."""
    begin_rows(w, len(x))
    while True:
        first, last = next_rows(w, len(x))
        if first == last:
            return
        for t in range(first, last):
            norm_row(x[t], norm, eps, h.x[t])
            if rounds:
                round_row(h, t, rounds)


@njit
def gate_rows(w, pair, gated, rounds):
    """Apply layers.swiglu to all tokens: pair = gate │ up, to gated.x; and round them, where the next matrix wants it."""
    d = gated.x.shape[1]
    begin_rows(w, len(pair))
    while True:
        first, last = next_rows(w, len(pair))
        if first == last:
            return
        for t in range(first, last):
            row, to = pair[t], gated.x[t]
            for c in range(0, d, 16):
                swiglu16(row, c, d + c, to)
            if rounds:
                round_row(gated, t, rounds)


@njit
def rounding(handles, which):  # -> 16, 8 or 0
    """Return the bits that these matrices want x rounded to: the packed among them want the same, 0 where there is none."""
    bits = 0
    for matrix in range(which[0], which[1]):
        bits = max(bits, handle_at(handles, matrix).rounds)
    return bits


@njit
def own_or(shared):  # Operand -> Operand
    """Choose where tokens that each thread does for itself go: to an Operand of its own."""
    return new_operand(*shared.x.shape) if len(shared.x) <= SERIAL else shared


@njit
def inputs_part(number, threads, board, x, norm, eps, handles, rotation, routes, h, y, outputs):
    w, n, (q, k, v) = worker(number, threads, board), len(x), outputs
    h, thin = own_or(h), Thin(routes.runs, routes.handles[0], low_room(routes))
    norm_rows(w, x, norm, eps, h, rounding(handles, Q_K_V))
    multiply(w, Q_K_V, handles, thin, h, y)
    begin_rows(w, n)
    while True:
        first, last = next_rows(w, n)
        if first == last:
            return
        for t in range(first, last):
            row = y[t]
            rope_row(row, 0, rotation.heads, t, rotation, q[t], 0)
            rope_row(row, q.shape[1], rotation.kv_heads, t, rotation, k[t], 0)
            v[t] = row[q.shape[1] + k.shape[1] :]


@kernel()
def inputs(words, threads, x, norm, eps, handles, outputs, rotation, routes):
    """Compute x → norm → q, k, v → rope. handles: (3, 6), of q, k and v; outputs: their arrays."""
    (q, k, v), n = outputs, len(x)
    board = new_board(threads, product_tasks(threads))
    y = np.empty((with_room(n), q.shape[1] + k.shape[1] + v.shape[1]), np.float32)[:n]
    args = threads, board, x, norm, eps, handles, rotation, routes, new_operand(*x.shape), y, outputs
    launch(words, job(inputs_part, args))


@njit
def feed_forward_part(number, threads, board, x, norm, eps, handles, routes, h, pair, gated, y):
    """y += down(swiglu(gate(norm(x)), up(norm(x)))) of all tokens."""
    w, h, gated = worker(number, threads, board), own_or(h), own_or(gated)
    thin = Thin(routes.runs, routes.handles[0], low_room(routes))
    norm_rows(w, x, norm, eps, h, rounding(handles, GATE_UP))
    multiply(w, GATE_UP, handles, thin, h, pair)
    gate_rows(w, pair, gated, handle_at(handles, 2).rounds)
    multiply(w, DOWN, handles, thin, gated, y)


@kernel()
def feed_forward(words, threads, x, norm, eps, handles, routes, y):
    """Call feed_forward_part. handles: (3, 6), of gate, up and down."""
    n, d_ff = len(x), BAND * handle_at(handles, 0).bands
    pair, gated = np.empty((with_room(n), 2 * d_ff), np.float32)[:n], new_operand(n, d_ff)
    board, h = new_board(threads, product_tasks(threads)), new_operand(*x.shape)
    args = threads, board, x, norm, eps, handles, routes, h, pair, gated, y
    launch(words, job(feed_forward_part, args))


def attention_inputs(x, w, c, cos, sin):
    """Compute layers.attention_inputs."""
    matrices = [wide(weight) for weight in (w.q, w.k, w.v)]
    if not can_fuse(*matrices):
        return layers.attention_inputs(x, w, c, cos, sin, linear=linear)
    x = np.ascontiguousarray(x, np.float32)
    n, eps, plain = len(x), np.float32(c.norm_eps), not (c.qk_norm or w.q_bias is not None)
    q, k, v = (np.empty((n, matrix.padded_rows), np.float32) for matrix in matrices)
    turned = np.ascontiguousarray(cos, np.float32), np.ascontiguousarray(sin, np.float32)
    rotation = Rotation(c.n_heads, c.n_kv_heads, c.d_head, *turned, c.rope_interleaved, plain)
    handles, routes = np.array([handle(matrix) for matrix in matrices], np.int64), routes_of(w.q, w.k, w.v)
    with team() as words:
        inputs(words, threads(), x, w.attn_norm, eps, handles, (q, k, v), rotation, routes)
    q, k, v = (heads_of(y, heads, c.d_head) for y, heads in ((q, c.n_heads), (k, c.n_kv_heads), (v, c.n_kv_heads)))
    if not plain:
        q, k = (adjusted(*three, c) for three in ((q, w.q_bias, w.q_norm), (k, w.k_bias, w.k_norm)))
        q, k = (layers.rope(y, cos, sin, c.rope_interleaved) for y in (q, k))
        v = v if w.v_bias is None else v + w.v_bias.reshape(v.shape[1:])
    return q, k, v


def adjusted(y, bias, norm, c):  # (n, heads, d) -> (n, heads, d)
    """Apply bias, then the norm of each head, where the model has them."""
    y = y if bias is None else y + bias.reshape(y.shape[1:])
    return y if norm is None else layers.rms_norm(y, norm, c.norm_eps)


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
    with team() as words:
        feed_forward(words, threads(), x, w.ffn_norm, np.float32(c.norm_eps), handles, routes, y)
    return y[:, : x.shape[1]]
