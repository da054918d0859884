"""Batch-invariant mode: a token's logits are the same bits alone, in any batch, and however its prompt is cut.

Floating-point addition is not associative: (a + b) + c and a + (b + c) differ in the last bit. A kernel is deterministic,
and still its result for one row changes with the number of rows that come along, because it is fast by choosing another
order of additions for another shape: a matrix product of 1 row is a sum of dot products, one of 16 rows goes tile by tile;
attention of one query cuts the keys into splits, attention of a chunk does not. What runs beside a request on a server is
chance, so its logits are, in the last bits; now and then two tokens are so near that the last bit decides, and from there
on the texts part. That, and not threads, is why temperature 0 on a server is not reproducible.

    fast        y[t] depends on x[t], W, and how many rows there are
    invariant   y[t] depends on x[t], W                             one order of additions for each position in a sequence

The cure is one order per operation, whatever the shape: rows are multiplied one at a time (or by a kernel that adds up
each row alike), and each query meets keys 0 … p, its own position, in tiles that begin at 0. The price is what the other
orders were chosen for. Servers rarely pay it: users want speed, and seldom need equal bits. Reinforcement learning on sampled
text does need them, and they make debugging easier.

He and Thinking Machines Lab 2025, "Defeating Nondeterminism in LLM Inference".
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy import ndarray as Array

from minillm import layers
from minillm.attention.paged import check_table
from minillm.attention.shapes import check_finite, check_shapes
from minillm.backends.ops import Ops
from minillm.errors import MiniLLMError
from minillm.layers import softmax


def invariant_model(transformer: Any) -> Any:  # Transformer -> Transformer
    """Make a model with the same weights and batch-invariant operations."""
    other = copy.copy(transformer)
    other.ops = invariant_ops(transformer.ops)
    return other


def invariant_ops(ops: Ops) -> Ops:
    """Make a backend with one order of additions: operations that mix two rows are replaced, the rest is the backend's own.

    What that is, a backend says itself (`Ops.invariant`), since only it knows which of its kernels add up each row alike. A way
    to take sequences or layers together is never among it. MiniLLMError where it offers none.
    """
    if ops.invariant is None:
        raise MiniLLMError(f"the {ops.name} backend has no batch-invariant operations; numpy and numba have.")
    changed = replace(ops, **ops.invariant())
    return changed.with_attention(changed.attention, changed.paged_attention)


def reference(linear: Callable = layers.linear) -> dict[str, Callable]:  # -> {name: operation}
    """Replace NumPy's operations: its product adds up in another order for another number of rows, and so does its attention."""
    linear = partial(row_by_row, linear)
    return {
        "linear": linear,
        "add_linear": lambda x, h, weight: x + linear(h, weight),
        "attention_inputs": partial(layers.attention_inputs, linear=linear),
        "add_feed_forward": partial(layers.add_feed_forward, linear=linear),
        "attention": attention,
        "paged_attention": paged_attention,
    }


def row_by_row(linear: Callable, x: Array, weight: Any, bias: Array | None = None) -> Array:  # (n, d_in) -> (n, d_out)
    """Apply `linear` to one row at a time: n calls of one shape, so one order of additions."""
    return np.concatenate([linear(x[i : i + 1], weight, bias) for i in range(len(x))])


def attention(q: Array, k: Array, v: Array) -> Array:  # (n_q, heads, d), (n_k, kv_heads, d) twice -> (n_q, heads, d)
    """Compute attention one query at a time, against the keys it sees and no others: shapes depend on its position."""
    n_q, heads, d, n_k, kv_heads = check_shapes(q, k, v)
    k, v = np.ascontiguousarray(k, np.float32), np.ascontiguousarray(v, np.float32)
    out = np.zeros(q.shape, np.float32)
    for i in range(max(0, n_q - n_k), n_q):
        seen = n_k - n_q + i + 1
        rows = q[i].reshape(kv_heads, heads // kv_heads, d)
        scores = rows @ k[:seen].transpose(1, 2, 0) / np.sqrt(np.float32(d))
        out[i] = (softmax(scores) @ v[:seen].transpose(1, 0, 2)).reshape(heads, d)
    return check_finite(out, q=q, k=k, v=v)


def paged_attention(q: Array, k_pages: Array, v_pages: Array, table: Array, n_k: int) -> Array:
    """Compute paged attention. The pages are gathered first, so that the size of a page changes nothing either."""
    check_table(q, k_pages, v_pages, table, n_k)
    used = np.asarray(table, np.int64)[: -(-n_k // k_pages.shape[1])]
    return attention(q, *(pages[used].reshape(-1, *pages.shape[2:])[:n_k] for pages in (k_pages, v_pages)))
