"""A layer in two calls: norm, products, activation and residual of each half without going back to Python in between.

A token of a small model passes two hundred matrices in two milliseconds. At ten microseconds a matrix, getting in and
out of a compiled function would double that. So what happens between two attentions is one function: `attention_inputs`
is norm, q, k, v, and their rotation; `add_feed_forward` norm, gate and up, their product, down, and the addition.

Fusing saves more than calls. The normed row is used by all matrices that share it while it is in the first cache, as it is
by float ones, rounded to 16 bits once for the packed ones; and x is never written to be read again. What each token needs
for itself (norm, rounding, activation) is shared among cores by tokens, what all share (matrices) by bands of rows.
"""

import numba
import numpy as np
from numba import njit, prange

from minillm import layers
from minillm.backends.adapted import wide
from minillm.backends.numba_.bands import share
from minillm.backends.numba_.compiled import kernel
from minillm.backends.numba_.crossover import SERIAL
from minillm.backends.numba_.linear import ADD, FRESH, fused, linear, padded, room, round_row, rounds, tape
from minillm.backends.numba_.packed import BAND
from minillm.backends.numba_.simd import fma, load, mul, splat, store, sum_of, swiglu16
from minillm.backends.numba_.thin import add_thin, low_room, thin_of


@njit(inline="always")
def norm_row(x, weight, eps, out):
    """layers.rms_norm of one token; d is a multiple of 16."""
    squares = splat(np.float32(0))
    for c in range(0, len(x), 16):
        squares = fma(load(x, c), load(x, c), squares)
    scale = splat(np.float32(1) / np.sqrt(sum_of(squares) / np.float32(len(x)) + eps))
    for c in range(0, len(x), 16):
        store(out, c, mul(mul(load(x, c), scale), load(weight, c)))


@njit(inline="always")
def turn_row(x, heads, d, cos, sin, interleaved):
    """layers.rope of one token, in place, on the first heads · d numbers of x."""
    step, apart = (2, 1) if interleaved else (1, d // 2)
    for h in range(heads):
        for i in range(d // 2):
            first = h * d + i * step
            a, b = x[first], x[first + apart]
            x[first] = a * cos[i] - b * sin[i]
            x[first + apart] = a * sin[i] + b * cos[i]


@njit(inline="always")
def norm_rows(x, norm, eps, h, rounded, codes, scale, sums):
    """Norm of all tokens, to h; and rounding, where a matrix wants it."""
    if len(x) <= SERIAL:
        for t in range(len(x)):
            norm_row(x[t], norm, eps, h[t])
            if rounded:
                round_row(h[t], codes[t], scale[t], sums[t])
    else:
        for t in prange(len(x)):
            norm_row(x[t], norm, eps, h[t])
            if rounded:
                round_row(h[t], codes[t], scale[t], sums[t])


@njit(inline="always")
def turn_rows(q, k, heads, kv_heads, d, cos, sin, interleaved):
    """layers.rope of queries and keys, in place."""
    if len(q) <= SERIAL:
        for t in range(len(q)):
            turn_row(q[t], heads, d, cos[t], sin[t], interleaved)
            turn_row(k[t], kv_heads, d, cos[t], sin[t], interleaved)
    else:
        for t in prange(len(q)):
            turn_row(q[t], heads, d, cos[t], sin[t], interleaved)
            turn_row(k[t], kv_heads, d, cos[t], sin[t], interleaved)


@kernel(parallel=True)
def inputs(x, norm, eps, q_tape, k_tape, v_tape, q, k, v, heads, kv_heads, d_head, cos, sin, interleaved, threads, runs, thin):
    """x → norm → q, k, v → turned (unless heads is 0)."""
    h, rounded = np.empty(x.shape, np.float32), rounds(q_tape) or rounds(k_tape) or rounds(v_tape)
    (codes, scale, sums), low = room(*x.shape), low_room(threads, runs, thin)
    norm_rows(x, norm, eps, h, rounded, codes, scale, sums)
    for part in prange(threads):
        share(part, threads, FRESH, q_tape, h, codes, scale, sums, q)
        share(part, threads, FRESH, k_tape, h, codes, scale, sums, k)
        share(part, threads, FRESH, v_tape, h, codes, scale, sums, v)
        add_thin(part, threads, runs, thin[0], 0, h, codes, scale, sums, q, low)
        add_thin(part, threads, runs, thin[0], 1, h, codes, scale, sums, k, low)
        add_thin(part, threads, runs, thin[0], 2, h, codes, scale, sums, v, low)
    turn_rows(q, k, heads, kv_heads, d_head, cos, sin, interleaved)


@kernel(parallel=True)
def turn(q, k, heads, kv_heads, d, cos, sin, interleaved):
    """The turning alone, for models that do something before it."""
    turn_rows(q, k, heads, kv_heads, d, cos, sin, interleaved)


@njit(inline="always")
def feed_forward_rows(x, norm, eps, gate_tape, up_tape, down_tape, y, threads, runs, thin, at, low):
    """y += down(swiglu(gate(norm(x)), up(norm(x)))) of all tokens; y may be x. at: which matrix of `thin` is gate."""
    (n, d), d_ff = x.shape, BAND * gate_tape[4]
    h, gate, up = np.empty((n, d), np.float32), np.empty((n, d_ff), np.float32), np.empty((n, d_ff), np.float32)
    codes, scale, sums = room(n, d)
    codes_ff, scale_ff, sums_ff = room(n, d_ff)
    rounded, rounded_ff = rounds(gate_tape) or rounds(up_tape), rounds(down_tape)
    norm_rows(x, norm, eps, h, rounded, codes, scale, sums)
    for part in prange(threads):
        share(part, threads, FRESH, gate_tape, h, codes, scale, sums, gate)
        share(part, threads, FRESH, up_tape, h, codes, scale, sums, up)
        add_thin(part, threads, runs, thin, at, h, codes, scale, sums, gate, low)
        add_thin(part, threads, runs, thin, at + 1, h, codes, scale, sums, up, low)
    if n <= SERIAL:
        for t in range(n):
            gate_row(gate[t], up[t], rounded_ff, codes_ff[t], scale_ff[t], sums_ff[t])
    else:
        for t in prange(n):
            gate_row(gate[t], up[t], rounded_ff, codes_ff[t], scale_ff[t], sums_ff[t])
    for part in prange(threads):
        share(part, threads, ADD, down_tape, gate, codes_ff, scale_ff, sums_ff, y)
        add_thin(part, threads, runs, thin, at + 2, gate, codes_ff, scale_ff, sums_ff, y, low)


@kernel(parallel=True)
def feed_forward(x, norm, eps, gate_tape, up_tape, down_tape, y, threads, runs, thin):
    """feed_forward_rows as a call."""
    low = low_room(threads, runs, thin)
    feed_forward_rows(x, norm, eps, gate_tape, up_tape, down_tape, y, threads, runs, thin[0], 0, low)


@njit(inline="always")
def gate_row(gate, up, rounded, codes, scale, sums):
    """layers.swiglu of one token, in place of gate; and rounded, where the next matrix wants it."""
    for c in range(0, len(gate), 16):
        swiglu16(gate, up, c)
    if rounded:
        round_row(gate, codes, scale, sums)


def attention_inputs(x, w, c, cos, sin):
    """As layers.attention_inputs."""
    matrices = [wide(weight) for weight in (w.q, w.k, w.v)]
    if not fused(*matrices):
        return layers.attention_inputs(x, w, c, cos, sin, linear=linear)
    x = np.ascontiguousarray(x, np.float32)
    n, eps, plain = len(x), np.float32(c.norm_eps), not (c.qk_norm or w.q_bias is not None)
    q, k, v = (np.empty((n, matrix.padded_rows), np.float32) for matrix in matrices)
    shape, angles = (c.n_heads, c.n_kv_heads, c.d_head), (cos, sin, c.rope_interleaved)
    now = shape if plain else (0, 0, 0)
    tapes, thin = [tape(matrix) for matrix in matrices], thin_of(w.q, w.k, w.v)
    inputs(x, w.attn_norm, eps, *tapes, q, k, v, *now, *angles, numba.get_num_threads(), *thin)
    if not plain:
        for y, heads, bias, norm in ((q, shape[0], w.q_bias, w.q_norm), (k, shape[1], w.k_bias, w.k_norm)):
            y[:, : heads * c.d_head] = adjusted(y[:, : heads * c.d_head], bias, norm, heads, c)
        if w.v_bias is not None:
            v[:, : len(w.v_bias)] += w.v_bias
        turn(q, k, *shape, *angles)
    return tuple(heads_of(y, heads, c.d_head) for y, heads in ((q, shape[0]), (k, shape[1]), (v, shape[1])))


def adjusted(y, bias, norm, heads, c):  # (n, heads · d) -> (n, heads · d)
    """Bias, then the norm of each head, where the model has them."""
    y = y if bias is None else y + bias
    return y if norm is None else layers.rms_norm(y.reshape(len(y), heads, -1), norm, c.norm_eps).reshape(len(y), -1)


def heads_of(y, heads, d):  # (n, ≥ heads · d) -> (n, heads, d)
    return y[:, : heads * d].reshape(len(y), heads, d)  # a copy only where the last band was not full


def add_feed_forward(x, w, c):
    """As layers.add_feed_forward."""
    matrices = [wide(weight) for weight in (w.gate, w.up, w.down)]
    if not fused(*matrices):
        return layers.add_feed_forward(x, w, c, linear=linear)
    x = np.ascontiguousarray(x, np.float32)
    y, tapes, thin = padded(x, matrices[-1].padded_rows), [tape(matrix) for matrix in matrices], thin_of(w.gate, w.up, w.down)
    feed_forward(x, w.ffn_norm, np.float32(c.norm_eps), *tapes, y, numba.get_num_threads(), *thin)
    return y[:, : x.shape[1]]
