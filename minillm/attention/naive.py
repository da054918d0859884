"""Attention as the formula says it: every score of every query against every key, held at once.

    O = softmax(Q Kᵀ / √d + mask) V

Each query asks "which of the earlier tokens matter to me?"; the softmax of its scores is the answer, and the output is
the average of the values under it. The whole (queries × keys) matrix of scores is written to memory and read back, and
that traffic, not the arithmetic, is what the later modules in this folder avoid.

Vaswani et al. 2017, arXiv:1706.03762. Grouped queries: Ainslie et al. 2023, arXiv:2305.13245.
"""

import numpy as np
from numpy import ndarray as Array

from minillm.attention.shapes import check_finite, check_shapes
from minillm.layers import softmax
from minillm.memory import refuse_beyond_memory


def causal_mask(n_q: int, n_k: int) -> Array:  # -> (n_q, n_k) bool, True where a key is visible
    """Make the causal mask, where the queries are the last n_q of n_k tokens.

    Query i is token n_k - n_q + i of the sequence, and sees itself and all before it. With a KV cache there are more
    keys than queries, so the triangle is shifted to the right.
    """
    return np.arange(n_k)[None, :] <= np.arange(n_q)[:, None] + (n_k - n_q)


def attention_head(q: Array, k: Array, v: Array) -> Array:  # (..., n_q, d), (..., n_k, d), (..., n_k, d) -> (..., n_q, d)
    """Compute one head of causal attention; leading axes, if any, are heads that do not see each other.

    float32 in, float32 out. With fewer keys than queries the first queries come before all keys: they get 0.
    """
    # BEGIN SOLUTION ex=01.3
    scores = q @ np.swapaxes(k, -1, -2) / np.sqrt(np.float32(q.shape[-1]))
    if q.shape[-2] > 1:  # a single query is the last token: it sees everything
        scores = np.where(causal_mask(q.shape[-2], k.shape[-2]), scores, np.float32(-np.inf))
    return softmax(scores) @ v
    # END SOLUTION


def attention(  # (n_q, heads, d), (n_k, kv_heads, d), (n_k, kv_heads, d) -> (n_q, heads, d)
    q: Array, k: Array, v: Array
) -> Array:
    """Causal attention over all heads. The queries are the last n_q tokens of the n_k that k and v hold.

    Grouped-query attention: heads // kv_heads query heads share one head of keys and values, in order: with 9 heads
    and 3 KV heads, query heads 0, 1, 2 read KV head 0. A ratio of 1 is multi-head, kv_heads = 1 is multi-query.

    A query before all keys, or an empty key set, gives 0. Raises MiniLLMError where shapes disagree, where NaN or
    infinity comes in, and where the scores would not fit in memory.
    """
    n_q, heads, d, n_k, kv_heads = check_shapes(q, k, v)
    refuse_beyond_memory(3 * 4 * heads * n_q * n_k, f"attention: scores of {heads} heads × {n_q:,} × {n_k:,}", "See flash.py.")
    inputs = {"q": q, "k": k, "v": v}
    # BEGIN SOLUTION ex=02.5
    group = heads // kv_heads
    q = q.reshape(n_q, kv_heads, group, d).transpose(1, 2, 0, 3)  # (kv_heads, group, n_q, d)
    k = k.transpose(1, 0, 2)[:, None]  # (kv_heads, 1, n_k, d): broadcast over the group, never copied
    v = v.transpose(1, 0, 2)[:, None]
    out = attention_head(q, k, v)
    out = out.transpose(2, 0, 1, 3).reshape(n_q, heads, d)
    # END SOLUTION
    return check_finite(out, **inputs)
