"""Attention of the Numba backend: the front door. Which kernel, with which scratch; the signatures of the reference.

Two kernels, because prefill and decode are two problems: many queries share each key they read, and arithmetic is the
limit (`prefill`); one query shares no key, and memory is the limit (`decode`). Both read the KV cache where it lies, in
pages or in one piece, in float32 or float16, through any strides, and copy at most a tile of it.

Paged and contiguous attention over the same keys give the same bits, whatever the size of a block: `pages` says why.
"""

import numpy as np
from numpy.lib.stride_tricks import as_strided

from minillm.attention.mask import Mask
from minillm.attention.paged import check_blocks, check_pages
from minillm.attention.shapes import check_block, check_finite, check_shapes
from minillm.backends.numba_.crossover import FEW_ROWS
from minillm.backends.numba_.decode import decode, split_keys
from minillm.backends.numba_.kv_rows import FLOATS, rotated
from minillm.backends.numba_.pages import EVERYTHING, MaskRule, Pages, Stored, one_block
from minillm.backends.numba_.prefill import Result, prefill, queries_per_tile
from minillm.backends.numba_.team import team, threads
from minillm.errors import MiniLLMError
from minillm.memory import refuse_beyond_memory

ONE = np.ones(1, np.float32)
FLOAT16, FLOAT32 = np.dtype(np.float16), np.dtype(np.float32)


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
    return over_one_block(q, k, v, Mask(n_q, n_k, causal, window, offset), split_size(n_q, heads, d, n_k, kv_heads))


def split_kv_attention(q, k, v, splits, *, causal=True, window=None, offset=None):
    """flash_attention with the keys cut into `splits` pieces, shared among the cores and merged by log-sum-exp.

    For a few queries against many keys: flash_attention already does this for decode, with a number of its own. Where d
    is no multiple of 16, or there are many queries, the cores share heads and queries instead; the result is the same.
    """
    check_block(splits=splits)
    n_q, _, d, n_k, _ = check_shapes(q, k, v)
    return over_one_block(q, k, v, Mask(n_q, n_k, causal, window, offset), None if d % 16 else max(1, -(-n_k // splits)))


def over_one_block(q, k, v, mask, size):
    """Attend over a contiguous cache: one block. size: keys of a split, or None for the kernel of prefill."""
    pages, rule = one_block(len(k)), MaskRule(mask.offset, mask.window or EVERYTHING, mask.causal)
    if size:
        seen = mask.span(slice(0, len(q)))
        out, lse, good = by_splits(q, k[None], v[None], pages, rule, (seen.start, seen.stop, size))
    else:
        out, lse, good = by_tiles(q, k[None], v[None], pages, rule)
    if not good:
        check_finite(out, q=q, k=k, v=v)
    return out, lse


def paged_attention(q, k_pages, v_pages, table, n_k):
    """(n_q, heads, d), (blocks, size, kv_heads, d) twice, (≥ n_k / size,) block numbers, int -> (n_q, heads, d)

    Causal attention of the last n_q of n_k tokens, over all heads, as attention/paged.py: same shapes and errors. Pages:
    float32 or float16. What is in a page beyond n_k is never looked at.
    """
    check_pages(q, k_pages, v_pages, table, n_k)
    return over_pages(q, k_pages, v_pages, table, n_k, FLOATS)


def quantized_attention(q, k_pages, v_pages, table, n_k, format):
    """(n_q, heads, d), (blocks, size, kv_heads, width) uint8 twice, block numbers, int, KVFormat -> (n_q, heads, d)

    paged_attention over rows of bytes, which are read where they lie. Of a format that turns rows, queries are turned likewise
    and outputs back.
    """
    width = format.width(q.shape[2])
    if k_pages.shape[3] != width or v_pages.shape[3] != width:
        raise MiniLLMError(f"attention: {format.name} keeps {q.shape[2]} numbers in {width} bytes; found pages {k_pages.shape}.")
    check_pages(q, *(np.broadcast_to(ONE, (*pages.shape[:3], q.shape[2])) for pages in (k_pages, v_pages)), table, n_k)
    out = over_pages(rotated(q, format), k_pages, v_pages, table, n_k, format.number)
    return rotated(out, format)


def over_pages(q, k_pages, v_pages, table, n_k, format):
    (n_q, heads, d), (blocks, block_size, kv_heads, _) = q.shape, k_pages.shape
    pages = Pages(np.ascontiguousarray(table, np.int64), block_size, blocks, n_k)
    rule = MaskRule(n_k - n_q, EVERYTHING, True)
    if size := split_size(n_q, heads, d, n_k, kv_heads):
        out, _, good = by_splits(q, k_pages, v_pages, pages, rule, (0, n_k, size), format)
    else:
        out, _, good = by_tiles(q, k_pages, v_pages, pages, rule, format)
    if not good:
        check_blocks(table, blocks)
        check_finite(out, q=q)
    return out


def split_size(n_q, heads, d, n_k, kv_heads):  # -> keys, or None
    """Choose how to cut the keys for the kernel of decode; None where the kernel of prefill is better."""
    if (n_q == 1 or n_q * heads <= FEW_ROWS * kv_heads) and d % 16 == 0:
        return split_keys(n_k)
    return None


def by_tiles(q, k, v, pages, mask, format=FLOATS):  # -> out, log-sum-exp, whether all is well
    """Run the kernel of prefill: the threads share tiles of queries and heads."""
    (n_q, heads, _), kv_heads = q.shape, k.shape[2]
    refuse_beyond_memory(q.nbytes + 4 * n_q * heads, f"attention: the output for q of shape {q.shape}")
    group, count = heads // kv_heads, threads()
    queries = max(1, min(queries_per_tile(group), -(-n_q * kv_heads // (2 * count))))  # two tiles a thread, or more
    result = Result(np.empty(q.shape, np.float32), np.empty((n_q, heads), np.float32), np.zeros(1, bool))
    with team() as words:
        prefill(words, count, queries, as_float32(q), flat(k, format), flat(v, format), pages, mask, result)
    return result.out, result.lse, not result.bad.any()


def by_splits(q, k, v, pages, mask, span, format=FLOATS):  # -> out, log-sum-exp, whether all is well
    """Run the kernel of decode: the threads share stretches of keys."""
    with team() as words:
        return decode(words, threads(), as_float32(q), flat(k, format), flat(v, format), pages, mask, span)


def as_float32(q):
    return np.ascontiguousarray(q, np.float32)


def flat(cache, format=FLOATS):  # (blocks, size, kv_heads, d or width) -> Stored, over the same memory
    """View k or v as the kernels read them: flat memory, and float16 as uint16, since Numba has none on the CPU.

    format: of rows of bytes, KVFormat.number. Copied only if rows are not contiguous, strides are negative or odd, or the type
    is another one.
    """
    if format == FLOATS and cache.dtype != FLOAT32 and cache.dtype != FLOAT16:
        cache = cache.astype(FLOAT32)
    (blocks, size, kv_heads, d), width, strides = cache.shape, cache.itemsize, cache.strides
    if not cache.flags.c_contiguous and (strides[3] != width or min(strides) < 0 or any(s % width for s in strides)):
        cache = np.ascontiguousarray(cache)
    if cache.flags.c_contiguous:
        line, steps = cache.reshape(-1), (size * kv_heads * d, kv_heads * d, d)
    else:
        steps = block, row, head = tuple(stride // width for stride in strides[:3])
        line = as_strided(cache, ((blocks - 1) * block + (size - 1) * row + (kv_heads - 1) * head + d,), (width,))
    return Stored(line.view(np.uint16) if cache.dtype == FLOAT16 else line, *steps, kv_heads, format)
