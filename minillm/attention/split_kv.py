"""Split-KV attention, also called flash-decoding: many workers on the keys of one query.

FlashAttention shares the rows of Q among cores. A decode step has one row, and a hundred cores would watch one read the
whole cache. So cut the *keys* into pieces, let each worker attend to its own, and merge what they bring back. A partial
result is an output and the log-sum-exp of its scores; that number is the weight it deserves:

    O = Σ exp(lse_s - lse) O_s        lse = log Σ exp(lse_s)

The longest chain of dependent steps falls from N keys to N / splits, plus one merge. The same formula merges a cached
prefix with a suffix (lesson 05) and the parts of a sequence that lies on several machines (ring attention).

Dao, Haziza, Massa, Sizov 2023, "Flash-Decoding for long-context inference".
"""

from typing import Any

import numpy as np
from numpy import ndarray as Array

from minillm.attention.flash import all_heads
from minillm.attention.mask import tiles
from minillm.attention.online_softmax import finite
from minillm.attention.shapes import check_block, check_finite, check_shapes


def merge(outs: Array, lses: Array) -> tuple[Array, Array]:  # (splits, ..., d), (splits, ...) -> (..., d), (...)
    """Merge partial results over disjoint sets of keys into the result over all of them.

    Part s weighs exp(lse_s - top), where top is the largest lse of its row, so that nothing overflows; total is the sum of
    these weights, and out the average of outs under them. A part that saw no key has lse = -inf and counts nothing; a row
    for which no part saw any has total = 0, and gives 0 and -inf: take 0 for its top (`finite`).
    """
    # BEGIN SOLUTION ex=03.5
    top = finite(np.max(lses, axis=0))
    weights = np.exp(lses - top)
    total = weights.sum(axis=0)
    out = (weights[..., None] * outs).sum(axis=0) / np.where(total == 0, 1, total).astype(total.dtype)[..., None]
    # END SOLUTION
    with np.errstate(divide="ignore"):  # log 0 = -inf is the right answer
        return out, top + np.log(total)


def split_kv_attention(
    q: Array, k: Array, v: Array, splits: int, *, causal: bool = True, window: int | None = None, offset: int | None = None,
    **options: Any
) -> tuple[Array, Array]:
    """(n_q, heads, d), (n_k, kv_heads, d), (n_k, kv_heads, d), int -> (n_q, heads, d), (n_q, heads)

    flash_attention over `splits` pieces of the keys, each as if alone, then merged. Here one after another: the point is
    that nothing connects them. backends/numba_ runs them on as many cores.
    """
    n_q, _, _, n_k, _ = check_shapes(q, k, v)
    check_block(splits=splits)
    offset = n_k - n_q if offset is None else offset
    size = max(1, -(-n_k // splits))
    parts = [
        all_heads(q, k[keys], v[keys], causal=causal, window=window, offset=offset - keys.start, **options)
        for keys in tiles(0, n_k, size) or [slice(0, 0)]
    ]
    out, lse = merge(*(np.stack(side) for side in zip(*parts, strict=True)))
    return check_finite(out, q=q, k=k, v=v), lse
