"""FlashAttention: exact attention that never holds the matrix of scores.

Cut Q into tiles of rows and K, V into tiles of columns, each small enough for fast memory. The scores of one pair of
tiles are made there, used there, and forgotten; the online softmax carries what must survive. Slow memory sees Q, K, V
and O, and never the N × N scores. Which loop is outside decides how often each is read:

    FlashAttention-1: for each K, V tile: for each Q tile      2Nd + 3Nd·Tc     O, m, l travel to slow memory and back
    FlashAttention-2: for each Q tile: for each K, V tile      2Nd + 2Nd·Tr     m, l, acc stay; O is divided and written once

(elements moved, without the statistics; Tr and Tc are the numbers of row and column tiles). FA-2 also has rows that do
not depend on each other outside, so that cores can share them, and divides once instead of in each tile.

Dao et al. 2022, arXiv:2205.14135, Algorithm 1. Dao 2023, arXiv:2307.08691, Algorithm 1.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy import ndarray as Array

from minillm.attention.mask import Mask, tiles
from minillm.attention.online_softmax import divide, fresh_state, log_sum_exp, update
from minillm.attention.shapes import check_block, check_finite, check_shapes
from minillm.errors import MiniLLMError
from minillm.memory import refuse_beyond_memory


def flash1_head(  # (n_q, d), (n_k, d), (n_k, d), (n_q, d), (n_q,)
    q: Array, k: Array, v: Array, out: Array, lse: Array, mask: Mask, block_q: int, block_k: int
) -> None:
    """Compute one head by FlashAttention-1: K and V outside. out arrives as zeros and lse as -inf; both are filled.

    A row's output and statistics live in slow memory between tiles. Each visit loads them, undoes the division by the
    sum so far, folds one tile in, divides by the new sum, and stores them. (lse holds the maximum m until the end.)
    """
    scale = 1 / np.sqrt(np.float32(q.shape[1]))
    m, l = lse, np.zeros_like(lse)
    for columns in tiles(0, mask.n_k, block_k):
        k_tile, v_tile = k[columns], v[columns]
        for rows in tiles(0, mask.n_q, block_q):
            if mask.hides_all(rows, columns):
                continue
            l_before = l[rows]
            acc = out[rows] * l_before[:, None]
            scores = mask.scores(q[rows] @ k_tile.T * scale, rows, columns)
            m[rows], l_after, acc = update(m[rows], l_before, acc, scores, v_tile)
            l[rows], out[rows] = l_after, divide(acc, l_after)
    for rows in tiles(0, mask.n_q, block_q):
        lse[rows] = log_sum_exp(m[rows], l[rows])


def flash2_head(  # (n_q, d), (n_k, d), (n_k, d), (n_q, d), (n_q,)
    q: Array, k: Array, v: Array, out: Array, lse: Array, mask: Mask, block_q: int, block_k: int
) -> None:
    """Compute one head by FlashAttention-2: Q outside. Fills out, and lse with the log-sum-exp of each row.

    Each row's state m, l, acc stays in fast memory from its first key to its last. K and V come in tiles of block_k rows,
    the last one shorter; tiles that none of the rows sees (mask.span, mask.hides_all) are never loaded. A row that sees
    no key keeps its fresh state.
    """
    scale = 1 / np.sqrt(np.float32(q.shape[1]))
    for rows in tiles(0, mask.n_q, block_q):
        q_tile = q[rows] * scale  # once per row tile, instead of once per tile of scores
        m, l, acc = fresh_state(q_tile)
        # BEGIN SOLUTION ex=03.4
        seen = mask.span(rows)
        for columns in tiles(seen.start, seen.stop, block_k):
            scores = mask.scores(q_tile @ k[columns].T, rows, columns)
            m, l, acc = update(m, l, acc, scores, v[columns])
        # END SOLUTION
        out[rows], lse[rows] = divide(acc, l), log_sum_exp(m, l)  # one division a row, at the end


def flash_attention(
    q: Array, k: Array, v: Array, *, causal: bool = True, window: int | None = None, offset: int | None = None, block_q: int = 64,
    block_k: int = 64, head: Callable = flash2_head
) -> tuple[Array, Array]:
    """(n_q, heads, d), (n_k, kv_heads, d), (n_k, kv_heads, d) -> (n_q, heads, d), (n_q, heads)

    Attention over all heads, and the log-sum-exp of each row's scaled scores. window and offset as in Mask; grouped
    queries as in naive.attention; head: the loop, flash1_head or flash2_head. Extra memory: one tile.

    A query that sees no key, or an empty key set: output 0 and log-sum-exp -inf.
    Raises MiniLLMError where shapes disagree, a block is empty, NaN or infinity comes in, or the output does not fit.
    """
    out, lse = all_heads(q, k, v, causal, window, offset, block_q, block_k, head)
    return check_finite(out, q=q, k=k, v=v), lse


def all_heads(
    q: Array, k: Array, v: Array, causal: bool = True, window: int | None = None, offset: int | None = None, block_q: int = 64,
    block_k: int = 64, head: Callable = flash2_head
) -> tuple[Array, Array]:
    """Run flash_attention without its check of the output, for callers that merge several results and check once."""
    n_q, heads, _, n_k, kv_heads = check_shapes(q, k, v)
    check_block(block_q=block_q, block_k=block_k)
    refuse_beyond_memory(q.nbytes + 2 * heads * n_q * q.itemsize, f"attention: the output for q of shape {q.shape}")
    mask = Mask(n_q, n_k, causal, window, offset)
    k, v = k.astype(q.dtype, copy=False), v.astype(q.dtype, copy=False)  # a 16-bit cache
    out, lse = np.zeros_like(q), np.full((n_q, heads), -np.inf, q.dtype)
    for h in range(heads):
        g = h * kv_heads // heads
        head(q[:, h], k[:, g], v[:, g], out[:, h], lse[:, h], mask, block_q, block_k)
    return out, lse


def flash_attention_varlen(
    q: Array, k: Array, v: Array, q_lengths: Sequence[int], k_lengths: Sequence[int], **options: Any
) -> tuple[Array, Array]:
    """(Σ q_lengths, heads, d), (Σ k_lengths, kv_heads, d) twice -> (Σ q_lengths, heads, d), (Σ q_lengths, heads)

    Sequences of different lengths, packed one after another without padding; each sees only its own keys.
    """
    check_shapes(q, k, v)
    if len(q_lengths) != len(k_lengths) or sum(q_lengths) != len(q) or sum(k_lengths) != len(k):
        raise MiniLLMError(
            f"attention: lengths add up to {sum(q_lengths)} queries in {len(q_lengths)} sequences and {sum(k_lengths)} keys in "
            f"{len(k_lengths)}; q holds {len(q)}, k {len(k)}."
        )
    if min([*q_lengths, *k_lengths], default=0) < 0:
        raise MiniLLMError(f"attention: a length cannot be negative, found {list(q_lengths)} queries and {list(k_lengths)} keys.")
    out, lse = np.empty_like(q), np.empty(q.shape[:2], q.dtype)
    a = b = 0
    for n_q, n_k in zip(q_lengths, k_lengths, strict=True):
        rows, keys = slice(a, a + n_q), slice(b, b + n_k)
        out[rows], lse[rows] = all_heads(q[rows], k[keys], v[keys], **options)
        a, b = rows.stop, keys.stop
    return check_finite(out, q=q, k=k, v=v), lse
