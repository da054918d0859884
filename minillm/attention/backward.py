"""The gradients of attention, with and without the matrix of scores.

Forward: S = Q Kᵀ / √d, P = softmax(S), O = P V. Given dO, the derivative of a loss by O:

    dV = Pᵀ dO        dP = dO Vᵀ        dS = P ∘ (dP - D)        dQ = dS K / √d        dK = dSᵀ Q / √d

with D = rowsum(P ∘ dP): softmax weights add up to 1, so pushing all scores of a row alike changes nothing, and D takes
that part out. FlashAttention's two savings: D = rowsum(dO ∘ O) needs only vectors, and P need not be kept, since one
number per row, the log-sum-exp, brings any tile of it back: P = exp(S - lse). More arithmetic, far less memory.

Dao et al. 2022, arXiv:2205.14135, Appendix B; Dao 2023, arXiv:2307.08691, Algorithm 2.
"""

import numpy as np
from numpy import ndarray as Array

from minillm.attention.mask import Mask, tiles
from minillm.attention.online_softmax import finite
from minillm.attention.shapes import check_block, check_shapes
from minillm.errors import MiniLLMError
from minillm.layers import softmax


def attention_backward(
    q: Array, k: Array, v: Array, d_out: Array, *, causal: bool = True, window: int | None = None, offset: int | None = None
) -> tuple[Array, Array, Array]:
    """(n_q, heads, d), (n_k, kv_heads, d), (n_k, kv_heads, d), (n_q, heads, d) -> dq, dk, dv of the same shapes as q, k, v

    By the formula, holding all of P. Query heads that share a KV head add up in its gradients.
    """
    n_q, heads, d, n_k, kv_heads = check_shapes(q, k, v)
    mask, scale = Mask(n_q, n_k, causal, window, offset), 1 / np.sqrt(q.dtype.type(d))
    all_queries, all_keys = slice(0, n_q), slice(0, n_k)
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for h in range(heads):
        g = h * kv_heads // heads
        p = softmax(mask.scores(q[:, h] @ k[:, g].T * scale, all_queries, all_keys))
        dp = d_out[:, h] @ v[:, g].T
        ds = p * (dp - (p * dp).sum(axis=1, keepdims=True))
        dq[:, h] = ds @ k[:, g] * scale
        dk[:, g] += ds.T @ q[:, h] * scale
        dv[:, g] += p.T @ d_out[:, h]
    return dq, dk, dv


def flash_backward(
    q: Array, k: Array, v: Array, out: Array, lse: Array, d_out: Array, *, causal: bool = True, window: int | None = None,
    offset: int | None = None, block_q: int = 64, block_k: int = 64
) -> tuple[Array, Array, Array]:
    """Compute attention_backward from out and lse of flash_attention: tiles of P are recomputed, used and dropped.

    K and V outside: a tile's dk and dv stay in fast memory while the queries pass by; dq is added to in slow memory.
    """
    n_q, heads, d, n_k, kv_heads = check_shapes(q, k, v)
    check_block(block_q=block_q, block_k=block_k)
    if not out.shape == d_out.shape == q.shape or lse.shape != q.shape[:2]:
        raise MiniLLMError(f"attention: out {out.shape}, d_out {d_out.shape} and lse {lse.shape} do not belong to q {q.shape}.")
    mask, scale = Mask(n_q, n_k, causal, window, offset), 1 / np.sqrt(q.dtype.type(d))
    delta = (out * d_out).sum(axis=2)  # the D of the formula: (n_q, heads)
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for h in range(heads):
        g = h * kv_heads // heads
        for columns in tiles(0, n_k, block_k):
            for rows in tiles(0, n_q, block_q):
                if mask.hides_all(rows, columns):
                    continue
                s = mask.scores(q[rows, h] @ k[columns, g].T * scale, rows, columns)
                parts = tile_backward(q[rows, h], k[columns, g], v[columns, g], s, lse[rows, h], delta[rows, h], d_out[rows, h])
                dq[rows, h] += parts[0] * scale
                dk[columns, g] += parts[1] * scale
                dv[columns, g] += parts[2]
    return dq, dk, dv


def tile_backward(q: Array, k: Array, v: Array, s: Array, lse: Array, delta: Array, d_out: Array) -> tuple[Array, Array, Array]:
    """Compute what one tile adds to dq, dk and dv, before dq and dk are scaled by 1/√d (the caller does that).

    (r, d), (c, d), (c, d), (r, c), (r,), (r,), (r, d) -> (r, d), (c, d), (c, d)

    s: its scaled scores, -inf where hidden. lse: the log-sum-exp of each row over all its keys, not only this tile's. delta:
    rowsum(dO ∘ O), the D of the formula above. Rows that saw nothing anywhere have lse = -inf and all of s = -inf: they add
    nothing, and no NaN; norm is lse as a column, with 0 in place of their -inf. float32 in, float32 out.
    """
    norm = finite(lse)[:, None]
    # BEGIN SOLUTION ex=03.6
    p = np.exp(s - norm)
    dp = d_out @ v.T
    ds = p * (dp - delta[:, None])
    return ds @ k, ds.T @ q, p.T @ d_out
    # END SOLUTION
