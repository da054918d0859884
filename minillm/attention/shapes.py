"""What every attention checks: that q, k and v belong together, and that nothing in them is not a number.

Shapes are compared before anything is computed. For NaN and infinity, reading all of q, k and v again would cost as
much as the attention of a decode step; one that matters shows in the output, which is small. So the output is looked
at, and only where it is not finite are the inputs searched for the culprit.
"""

import numpy as np
from numpy import ndarray as Array

from minillm.errors import MiniLLMError


def check_shapes(  # (n_q, heads, d), (n_k, kv_heads, d), (n_k, kv_heads, d) -> n_q, heads, d, n_k, kv_heads
    q: Array, k: Array, v: Array
) -> tuple[int, int, int, int, int]:
    """Check shapes: return the five numbers, or raise MiniLLMError with the shapes that disagree."""
    if q.ndim != 3 or k.ndim != 3 or k.shape != v.shape or k.shape[2] != q.shape[2]:
        raise MiniLLMError(
            f"attention: q has shape {q.shape}, k {k.shape} and v {v.shape}; "
            "expected (n_q, heads, d), and (n_k, kv_heads, d) with the same d for both k and v."
        )
    n_q, heads, d = q.shape
    n_k, kv_heads, _ = k.shape
    if kv_heads == 0 or heads % kv_heads or d == 0:
        raise MiniLLMError(f"attention: {heads} query heads cannot share {kv_heads} KV heads evenly (heads of {d} components).")
    return n_q, heads, d, n_k, kv_heads


def check_block(**sizes: int) -> None:
    """Refuse a tile of no rows: check_block(block_q=64, block_k=0) names block_k."""
    for name, size in sizes.items():
        if size < 1:
            raise MiniLLMError(f"attention: {name} is the number of rows of a tile, at least 1; found {size}.")


def check_finite(out: Array, **inputs: Array) -> Array:  # array, name=(tokens, heads, d) ...
    """Return out; where it holds NaN or infinity, raise MiniLLMError that names the input at fault, or the overflow."""
    if np.isfinite(out).all():
        return out
    for name, array in inputs.items():
        bad = np.argwhere(~np.isfinite(array))
        if len(bad):
            token, head, component = bad[0]
            value = array[token, head, component]
            raise MiniLLMError(f"attention: {name} holds {value} at token {token}, head {head} ({len(bad):,} values in all).")
    if "k" in inputs:
        raise MiniLLMError("attention: the scores overflow float32: q and k are finite, but q·k is not.")
    raise MiniLLMError("attention: the result is not finite: keys or values hold NaN or infinity, or q·k overflows float32.")
