"""Attention of the Numba backend: the front door. Which kernel, with which scratch; the signatures of the reference.

Two kernels, because prefill and decode are two problems: many queries share each key they read, and arithmetic is the
limit (`prefill`); one query shares it with nobody, and memory is (`decode`). Both read the KV cache where it lies, in
float32 or float16, through any strides, and copy at most a tile of it.
"""

from itertools import accumulate

import numba
import numpy as np
from numpy.lib.stride_tricks import as_strided

from minillm.attention.mask import Mask
from minillm.attention.shapes import check_block, check_finite, check_shapes
from minillm.backends.numba_.crossover import FEW_ROWS
from minillm.backends.numba_.decode import decode
from minillm.backends.numba_.online import KEYS
from minillm.backends.numba_.prefill import prefill, queries_per_tile, scratch_shapes
from minillm.memory import refuse_beyond_memory

EVERYTHING = 1 << 40  # a window that no sequence outgrows


def attention(q, k, v, window=None, offset=None):  # (n_q, heads, d), (n_k, kv_heads, d) twice -> (n_q, heads, d)
    """Causal attention over all heads, as attention/naive.py: same shapes, grouped queries, and errors."""
    return flash_attention(q, k, v, window=window, offset=offset)[0]


def flash_attention(q, k, v, *, causal=True, window=None, offset=None):
    """(n_q, heads, d), (n_k, kv_heads, d) twice -> (n_q, heads, d), (n_q, heads): output, log-sum-exp of scaled scores.

    window and offset as in Mask: a query sees itself and the window - 1 keys before it; query 0 stands at `offset`
    among the keys, by default so that the last query stands at the last key. k and v: float32 or float16. A query that
    sees no key, or an empty key set: output 0 and log-sum-exp -inf.

    Raises MiniLLMError where shapes disagree, and where NaN or infinity comes in.
    """
    n_q, heads, d, n_k, kv_heads = check_shapes(q, k, v)
    if (n_q == 1 or n_q * heads <= FEW_ROWS * kv_heads) and d % 16 == 0:
        size = max(KEYS, -(-n_k // 32) // KEYS * KEYS)  # 32 pieces or so: enough to share out, few enough to merge
        return by_splits(q, k, v, size, Mask(n_q, n_k, causal, window, offset))
    return by_tiles(q, k, v, Mask(n_q, n_k, causal, window, offset))


def split_kv_attention(q, k, v, splits, *, causal=True, window=None, offset=None):
    """flash_attention with the keys cut into `splits` pieces, shared among the cores and merged by log-sum-exp.

    For a few queries against many keys: flash_attention already does this for decode, with a number of its own. Where d
    is no multiple of 16, or there are many queries, the cores share heads and queries instead; the result is the same.
    """
    check_block(splits=splits)
    n_q, _, d, n_k, _ = check_shapes(q, k, v)
    mask = Mask(n_q, n_k, causal, window, offset)
    if d % 16:
        return by_tiles(q, k, v, mask)
    return by_splits(q, k, v, max(1, -(-n_k // splits)), mask)


def by_tiles(q, k, v, mask):
    """Prefill: the threads share tiles of queries and heads."""
    n_q, heads, d, n_k, kv_heads = check_shapes(q, k, v)
    refuse_beyond_memory(q.nbytes + 4 * n_q * heads, f"attention: the output for q of shape {q.shape}")
    threads, group = numba.get_num_threads(), heads // kv_heads
    queries = max(1, min(queries_per_tile(group), -(-n_q * kv_heads // (2 * threads))))  # two tiles a thread, or more
    out, lse, bad = np.empty(q.shape, np.float32), np.empty((n_q, heads), np.float32), np.zeros(threads, bool)
    scratch = aligned(*((threads, size) for size in scratch_shapes(queries, group, d)))
    work = threads, np.zeros(1, np.int64), queries, as_float32(q)
    rule = mask.offset, mask.window or EVERYTHING, mask.causal
    prefill(*work, *flat(k), *flat(v), (n_k, kv_heads), rule, out, lse, bad, *scratch)
    if bad.any():
        check_finite(out, q=q, k=k, v=v)
    return out, lse


def by_splits(q, k, v, size, mask):
    """Decode: the threads share stretches of `size` keys."""
    seen = mask.span(slice(0, len(q)))
    rule, span = (mask.offset, mask.window or EVERYTHING, mask.causal), (seen.start, seen.stop, size)
    out, lse, good = decode(numba.get_num_threads(), as_float32(q), *flat(k), *flat(v), k.shape[1], rule, span)
    if not good:
        check_finite(out, q=q, k=k, v=v)
    return out, lse


def as_float32(q):
    return np.ascontiguousarray(q, np.float32)


def flat(cache):  # (n_k, kv_heads, d) -> 1-D array over the same memory, (elements to the next token, to the next head)
    """k or v as the kernels read them: where they lie, and float16 as uint16, since Numba has none on the CPU.

    Copied only if rows are not contiguous, strides are negative or odd, or the type is another one.
    """
    size = cache.itemsize
    if cache.dtype not in (np.float32, np.float16):
        cache = cache.astype(np.float32)
    elif cache.strides[2] != size or min(cache.strides) < 0 or any(stride % size for stride in cache.strides):
        cache = np.ascontiguousarray(cache)
    (n_k, kv_heads, d), size = cache.shape, cache.itemsize
    row, head = cache.strides[0] // size, cache.strides[1] // size
    if cache.flags.c_contiguous:
        line = cache.reshape(-1)
    else:
        line = as_strided(cache, ((n_k - 1) * row + (kv_heads - 1) * head + d,), (size,))
    return line.view(np.uint16) if cache.dtype == np.float16 else line, (row, head)


def aligned(*shapes):  # (rows, columns) ... -> as many float32 arrays
    """Scratch from one allocation, each array at the beginning of a cache line: a vector across two lines is two loads."""
    starts = list(accumulate((rows * columns + 15 & -16 for rows, columns in shapes), initial=16))
    raw = np.empty(starts[-1], np.float32)
    shift = raw.__array_interface__["data"][0] // 4 % 16
    return [raw[at - shift :][: a * b].reshape(a, b) for (a, b), at in zip(shapes, starts, strict=False)]
