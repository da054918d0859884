"""Attention over a batch of sequences, and its gradients: FlashAttention's backward, one sequence and KV head at a time.

Query heads that share a KV head see the same keys and values: stacked, they are simply more rows. With G query heads to a
KV head, a tile is G × TILE rows of queries against all keys up to the last of them, so that the masked causal half
is mostly never computed, and every product is one call of BLAS. Forward keeps the output and one number per row, the
log-sum-exp; backward makes each tile of P again (attention/backward.py has the formulas and the tile).

    keys    0 … 63   64 … 127   128 … 191         the sum over the G heads of a group, which dK and dV need,
    rows    ▙                                     comes by itself: dK = dSᵀ Q runs over all G × TILE rows
            ■■■■■■   ▙
            ■■■■■■   ■■■■■■■    ▙

Dao 2023, arXiv:2307.08691, Algorithm 2. Ainslie et al. 2023, arXiv:2305.13245 (GQA).
"""

from collections.abc import Iterator

import numpy as np
from numpy import ndarray as Array

from minillm.attention.backward import tile_backward
from minillm.attention.mask import tiles

TILE = 64  # rows of queries, of each head of a group
CAUSAL = np.triu(np.full((TILE, TILE), -np.inf, np.float32), 1)  # added to scores: nothing, or all there is


def attention_forward(q: Array, k: Array, v: Array) -> tuple[Array, Array]:
    """(batch, n, heads, d), (batch, n, kv_heads, d), (batch, n, kv_heads, d) -> (batch, n, heads, d), (batch, heads, n)

    Causal attention within each sequence. Returns the output and the log-sum-exp of each row's scores.
    """
    out, lse = np.empty(q.shape, q.dtype), np.empty((q.shape[0], q.shape[2], q.shape[1]), q.dtype)
    for b, keys, rows, heads, g in stacks(q, k):
        k_seen, v_seen = k[b, keys, g], v[b, keys, g]
        s = scores(stack(q[b, rows, heads]), k_seen, rows)
        top = s.max(axis=1, keepdims=True)
        s -= top
        p = np.exp(s, out=s)
        l = p.sum(axis=1, keepdims=True)
        o = p @ v_seen
        o /= l
        unstack(o, out[b, rows, heads])
        lse[b, heads, rows] = (top + np.log(l)).reshape(lse[b, heads, rows].shape)
    return out, lse


def attention_gradients(q: Array, k: Array, v: Array, out: Array, lse: Array, d_out: Array) -> tuple[Array, Array, Array]:
    """Compute dq, dk and dv. As attention_forward, with its results and d_out, the gradient of out."""
    dq, dk, dv = np.empty_like(q), np.zeros_like(k), np.zeros_like(v)
    delta = np.einsum("bnhd,bnhd->bhn", out, d_out)  # the D of the formula: rowsum(O ∘ dO)
    scale = q.dtype.type(1 / np.sqrt(q.shape[3]))
    for b, keys, rows, heads, g in stacks(q, k):
        q_tile, k_seen = stack(q[b, rows, heads]), k[b, keys, g]
        s = scores(q_tile, k_seen, rows)
        row_lse, row_delta = lse[b, heads, rows].reshape(-1), delta[b, heads, rows].reshape(-1)
        parts = tile_backward(q_tile, k_seen, v[b, keys, g], s, row_lse, row_delta, stack(d_out[b, rows, heads]))
        unstack(parts[0], dq[b, rows, heads])
        dk[b, keys, g] += parts[1]
        dv[b, keys, g] += parts[2]
    dq *= scale
    dk *= scale
    return dq, dk, dv


def stacks(  # -> sequence, keys that are seen, rows of queries, their heads, their KV head: of each tile
    q: Array, k: Array
) -> Iterator[tuple[int, slice, slice, slice, int]]:
    """List every tile of the batch. Keys after the tile's last row are seen by none of its rows, and left out."""
    batch, n, n_heads, _ = q.shape
    group = n_heads // k.shape[2]
    for b in range(batch):
        for g in range(k.shape[2]):
            for rows in tiles(0, n, TILE):
                yield b, slice(0, rows.stop), rows, slice(g * group, (g + 1) * group), g


def stack(x: Array) -> Array:  # (rows, group, d) -> (group · rows, d)
    """Stack the heads of a group under each other, as one matrix."""
    return x.transpose(1, 0, 2).reshape(-1, x.shape[2])


def unstack(x: Array, into: Array) -> None:  # (group · rows, d), (rows, group, d): filled in place
    """Undo `stack`."""
    rows, group, d = into.shape
    into[...] = x.reshape(group, rows, d).transpose(1, 0, 2)


def scores(q_tile: Array, k_seen: Array, rows: slice) -> Array:  # (group · rows, d), (keys, d), slice -> (group · rows, keys)
    """Compute Q Kᵀ / √d of one tile, -inf above the diagonal of its last columns: all rows see all columns before them."""
    d, n = k_seen.shape[1], rows.stop - rows.start
    s = (q_tile * q_tile.dtype.type(1 / np.sqrt(d))) @ k_seen.T
    s.reshape(-1, n, rows.stop)[:, :, rows.start :] += CAUSAL[:n, :n]
    return s
