"""Paged attention: FlashAttention whose tiles are the pages of a block table.

The keys and values of a sequence lie in blocks scattered over the pool. Copying them together first would move the
whole cache twice. There is no need: attention goes through the keys in tiles anyway, and the online softmax does not
care where a tile lies. So the tile is the block, and the only change is one look into the table:

    contiguous    k[columns]                     table   7 │ 2 │ 5        block table of the sequence
    paged         k_pages[table[i], :filled]               ▼   ▼   ▼
                                                   pages[7] pages[2] pages[5, :2]     the last one partly filled

Kwon et al. 2023 (PagedAttention), arXiv:2309.06180.
"""

import numpy as np
from numpy import ndarray as Array

from minillm.attention.mask import Mask, tiles
from minillm.attention.online_softmax import divide, fresh_state, update
from minillm.attention.shapes import check_finite
from minillm.errors import MiniLLMError


def paged_attention(q: Array, k_pages: Array, v_pages: Array, table: Array, n_k: int) -> Array:
    """Causal attention over pages that are read where they lie, one after the other, for all heads at once.

    q: (n_q, heads, d), the last n_q of n_k tokens. k_pages, v_pages: (blocks, size, kv_heads, d). table: block numbers, at
    least n_k / size of them. Returns (n_q, heads, d). Nothing is gathered, and what a page holds beyond n_k is never looked at.

    Raises MiniLLMError where shapes disagree, the table is too short, or it names a block that is not there.
    """
    n_q, heads, d = q.shape
    blocks, size, kv_heads, _ = k_pages.shape
    check_table(q, k_pages, v_pages, table, n_k)
    group, mask, rows = heads // kv_heads, Mask(n_q, n_k), slice(0, n_q)
    q_heads = q.reshape(n_q, kv_heads, group, d).transpose(1, 2, 0, 3) / np.sqrt(np.float32(d))
    m, l, acc = fresh_state(q_heads)
    for i, columns in enumerate(tiles(0, n_k, size)):
        # BEGIN SOLUTION ex=04.3
        filled = columns.stop - columns.start
        k = k_pages[table[i], :filled].transpose(1, 0, 2)[:, None]  # (kv_heads, 1, filled, d): a view of the page
        v = v_pages[table[i], :filled].transpose(1, 0, 2)[:, None]
        scores = mask.scores(q_heads @ k.swapaxes(-1, -2), rows, columns)
        m, l, acc = update(m, l, acc, scores, v)
        # END SOLUTION
    return check_finite(divide(acc, l).transpose(2, 0, 1, 3).reshape(n_q, heads, d), q=q)


def check_table(q: Array, k_pages: Array, v_pages: Array, table: Array, n_k: int) -> None:
    """Refuse a table that would be read beyond its end or the pool's."""
    check_pages(q, k_pages, v_pages, table, n_k)
    check_blocks(table, len(k_pages))


def check_pages(q: Array, k_pages: Array, v_pages: Array, table: Array, n_k: int) -> None:
    """Check that shapes agree, and that the table is long enough."""
    _, size, kv_heads, d = k_pages.shape
    if k_pages.shape != v_pages.shape or q.shape[2] != d or kv_heads == 0 or q.shape[1] % kv_heads:
        raise MiniLLMError(f"attention: q has shape {q.shape}, pages of k {k_pages.shape} and of v {v_pages.shape}.")
    if len(table) * size < n_k:
        raise MiniLLMError(f"attention: a table of {len(table)} blocks of {size} cannot hold {n_k} keys.")


def check_blocks(table: Array, blocks: int) -> None:
    """Check that the table names existing blocks."""
    if len(table) and not 0 <= min(table) <= max(table) < blocks:
        raise MiniLLMError(f"attention: the table names blocks {min(table)} to {max(table)}, there are 0 to {blocks - 1}.")
