"""A layer in two calls: norm, products, activation and residual of each half without going back to Python in between.

A token of a small model passes two hundred matrices in two milliseconds. At ten microseconds a matrix, getting in and
out of a compiled function would double that. So what happens between two attentions is one function: `attention_inputs`
is norm, q, k, v, and their rotation; `add_feed_forward` norm, gate and up, their product, down, and the addition.

Fusing saves more than calls. The normed row is rounded to 16 bits while it is in the first cache, and used by all
matrices that share it; and x is never written to be read again. What each token needs for itself (norm, rounding,
activation) is shared among cores by tokens, what all share (matrices) by bands of rows.
"""

from functools import lru_cache

import numba
import numpy as np
from numba import njit, prange

from minillm.backends.numba_.compiled import kernel
from minillm.backends.numba_.linear import Rounded, linear, multiply, round_row, tape_of
from minillm.backends.numba_.packed import BAND, aligned
from minillm.backends.numba_.simd import fma, load, mul, splat, store, sum_of, swiglu16
from minillm.layers import rms_norm

ZERO = np.float32(0)


@njit(inline="always")
def norm_row(x, weight, eps, out):
    """layers.rms_norm of one token."""
    d = len(x)
    squares, full = splat(ZERO), d // 16 * 16
    for c in range(0, full, 16):
        squares = fma(load(x, c), load(x, c), squares)
    total = sum_of(squares)
    for c in range(full, d):
        total += x[c] * x[c]
    scale = np.float32(1) / np.sqrt(total / np.float32(d) + eps)
    for c in range(0, full, 16):
        store(out, c, mul(mul(load(x, c), splat(scale)), load(weight, c)))
    for c in range(full, d):
        out[c] = x[c] * scale * weight[c]


@lru_cache
def inputs_kernel(q_layout, k_layout, v_layout):
    """norm → q, k, v, for three layouts."""
    qb, qg, qo, qw, qm = q_layout
    kb, kg, ko, kw, km = k_layout
    vb, vg, vo, vw, vm = v_layout

    @kernel(parallel=True)
    def run(x, norm, eps, h, q_tape, k_tape, v_tape, codes, scale, sums, q, k, v, threads):
        for t in prange(len(x)):
            norm_row(x[t], norm, eps, h[t])
            round_row(h[t], codes[t], scale[t], sums[t])
        multiply(qb, qg, qo, qw, qm, q_tape, codes, scale, sums, q, threads)
        multiply(kb, kg, ko, kw, km, k_tape, codes, scale, sums, k, threads)
        multiply(vb, vg, vo, vw, vm, v_tape, codes, scale, sums, v, threads)

    return run


@kernel(parallel=True)
def turn(x, cos, sin, interleaved):
    """layers.rope in place: (n, heads, d)."""
    n, heads, d = x.shape
    step, apart = (2, 1) if interleaved else (1, d // 2)
    for t in prange(n):
        for h in range(heads):
            for i in range(d // 2):
                a, b = x[t, h, i * step], x[t, h, i * step + apart]
                x[t, h, i * step] = a * cos[t, i] - b * sin[t, i]
                x[t, h, i * step + apart] = a * sin[t, i] + b * cos[t, i]


@lru_cache
def feed_forward_kernel(gate_layout, up_layout, down_layout):
    """norm → gate, up → swiglu → down → + x, for three layouts."""
    gb, gg, go, gw, gm = gate_layout
    ub, ug, uo, uw, um = up_layout
    db, dg, do, dw, dm = down_layout

    @kernel(parallel=True)
    def run(x, norm, eps, h, gate_tape, up_tape, down_tape, codes, scale, sums, gate, up, codes2, scale2, sums2, y, threads):
        for t in prange(len(x)):
            norm_row(x[t], norm, eps, h[t])
            round_row(h[t], codes[t], scale[t], sums[t])
        multiply(gb, gg, go, gw, gm, gate_tape, codes, scale, sums, gate, threads)
        multiply(ub, ug, uo, uw, um, up_tape, codes, scale, sums, up, threads)
        for t in prange(len(x)):
            for c in range(0, gate.shape[1], 16):
                swiglu16(gate[t], up[t], c)
            round_row(gate[t], codes2[t], scale2[t], sums2[t])
        multiply(db, dg, do, dw, dm, down_tape, codes2, scale2, sums2, y, threads)
        for t in prange(len(x)):
            for c in range(x.shape[1]):
                y[t, c] += x[t, c]

    return run


def rows(n, weight):
    """Room for the product with a matrix: its rows, padded to whole bands."""
    return aligned((n, weight.records.shape[0] * BAND), np.float32)


def attention_inputs(x, w, c, cos, sin):
    """As layers.attention_inputs."""
    n = len(x)
    q, k, v = (rows(n, matrix) for matrix in (w.q, w.k, w.v))
    run = inputs_kernel(w.q.layout.constants, w.k.layout.constants, w.v.layout.constants)
    tapes = tape_of(w.q), tape_of(w.k), tape_of(w.v)
    run(x, w.attn_norm, np.float32(c.norm_eps), np.empty_like(x), *tapes, *Rounded(n, x.shape[1]).arrays, q, k, v, threads())
    for y, bias in ((q, w.q_bias), (k, w.k_bias), (v, w.v_bias)):
        if bias is not None:
            y[:, : len(bias)] += bias
    q, k, v = heads_of(q, c.n_heads, c.d_head), heads_of(k, c.n_kv_heads, c.d_head), heads_of(v, c.n_kv_heads, c.d_head)
    if c.qk_norm:
        q, k = rms_norm(q, w.q_norm, c.norm_eps), rms_norm(k, w.k_norm, c.norm_eps)
    for y in (q, k):
        turn(y, cos, sin, c.rope_interleaved)
    return q, k, v


def heads_of(y, heads, d):  # (n, ≥ heads · d) -> (n, heads, d), the same memory
    return y[:, : heads * d].reshape(len(y), heads, d)  # a copy only where rows are padded


def add_linear(x, h, weight):
    """As layers.add_linear."""
    return x + linear(h, weight)


def add_feed_forward(x, w, c):
    """As layers.add_feed_forward."""
    n, d = x.shape
    gate, up, y = (rows(n, matrix) for matrix in (w.gate, w.up, w.down))
    run = feed_forward_kernel(w.gate.layout.constants, w.up.layout.constants, w.down.layout.constants)
    tapes = tape_of(w.gate), tape_of(w.up), tape_of(w.down)
    first, second = Rounded(n, d).arrays, Rounded(n, w.down.shape[1]).arrays
    run(x, w.ffn_norm, np.float32(c.norm_eps), np.empty_like(x), *tapes, *first, gate, up, *second, y, threads())
    return y[:, :d]


def threads():
    return numba.get_num_threads()
