"""Batch-invariant mode of the Numba backend: attention by one kernel, in one order (see backends/invariant.py).

The products add up each row alike already, whatever comes along. Attention does not: the kernel of decode cuts the keys by
their number, and it is chosen by the number of queries. In the kernel of prefill a row meets the keys in tiles of 64 that begin
at position 0, and a tile that it does not see leaves its state as it was; which rows share a tile of queries does not matter.
So that kernel does all of it, also for a single query.
"""

import numpy as np

from minillm.attention.paged import check_table
from minillm.attention.shapes import check_finite, check_shapes
from minillm.backends.numba_.attention import by_tiles
from minillm.backends.numba_.pages import EVERYTHING, MaskRule, Pages, one_block


def attention(q, k, v):  # (n_q, heads, d), (n_k, kv_heads, d) twice -> (n_q, heads, d)
    """Compute attention as attention/naive.py does."""
    n_q, n_k = len(q), check_shapes(q, k, v)[3]
    out, _, good = by_tiles(q, k[None], v[None], one_block(n_k), MaskRule(n_k - n_q, EVERYTHING, True))
    return out if good else check_finite(out, q=q, k=k, v=v)


def paged_attention(q, k_pages, v_pages, table, n_k):
    """Compute attention as attention/paged.py does."""
    check_table(q, k_pages, v_pages, table, n_k)
    pages = Pages(np.ascontiguousarray(table, np.int64), k_pages.shape[1], len(k_pages), n_k)
    out, _, good = by_tiles(q, k_pages, v_pages, pages, MaskRule(n_k - len(q), EVERYTHING, True))
    return out if good else check_finite(out, q=q)


def invariant():  # -> {name: operation}
    """Return the operations that replace this backend's own."""
    return {"attention": attention, "paged_attention": paged_attention}
