"""The attentions to measure, each in a process of its own (`worker.py`): ours in three steps, paged, and torch's.

Each draws the same random queries, keys and values, in the layout it likes best, aligned to cache lines: ours
(tokens, heads, d) as the KV cache holds it, or that in blocks of 16 in random order, torch (1, heads, tokens, d). A decode
step is `queries` = 1.
"""

import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy import ndarray as Array

BLOCK = 16  # tokens in a block of the paged cache, as PageStore's default


@dataclass(frozen=True, slots=True)
class Call:
    """The fastest of some calls, in seconds; or the most memory that one held beside its inputs, in bytes."""

    time_s: float | None = None
    peak_bytes: int | None = None


@dataclass
class AttentionEngine:
    """One implementation. path: its name, a key of IMPLEMENTATIONS."""

    path: str
    threads: int
    work: Any = None
    shape: tuple = field(default=())

    def __post_init__(self) -> None:
        self.prepare = IMPLEMENTATIONS[self.path](self.threads)

    def run(
        self, queries: int, tokens: int, heads: int, kv_heads: int, d_head: int, at_least_s: float = 0.1, memory: bool = False,
        warm: bool = True
    ) -> Call:
        """Call it until at_least_s have passed. memory: one call under tracemalloc, which sees NumPy's arrays only."""
        if self.shape != (queries, tokens, heads, kv_heads, d_head):
            self.shape, self.work = (queries, tokens, heads, kv_heads, d_head), None  # free the old before drawing the new
            rng = np.random.default_rng(0)
            shapes = (queries, heads, d_head), (tokens, kv_heads, d_head), (tokens, kv_heads, d_head)
            self.work = self.prepare(*(draw(rng, shape) for shape in shapes))
        if memory:
            tracemalloc.start()
            self.work()
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            return Call(peak_bytes=peak)
        if warm:
            self.work()
        times: list[float] = []
        while not times or sum(times) < at_least_s:
            start = time.perf_counter()
            self.work()
            times.append(time.perf_counter() - start)
        return Call(time_s=min(times))


def aligned(shape: tuple[int, ...]) -> Array:  # -> float32, beginning at a cache line
    raw = np.zeros(int(np.prod(shape)) + 16, np.float32)
    return raw[-raw.ctypes.data // 4 % 16 :][: raw.size - 16].reshape(shape)


def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    array = aligned(shape)
    rng.standard_normal(out=array, dtype=np.float32)
    return array


def in_blocks(x: Array, table: Array) -> Array:  # (tokens, kv_heads, d), block numbers -> (blocks, BLOCK, kv_heads, d)
    pages = aligned((len(table), BLOCK, *x.shape[1:]))
    for i, block in enumerate(table):
        part = x[i * BLOCK : (i + 1) * BLOCK]
        pages[block, : len(part)] = part
    return pages


def naive_numpy(threads: int) -> Callable:
    from minillm.attention.naive import attention

    return lambda q, k, v: lambda: attention(q, k, v)


def flash_numpy(threads: int) -> Callable:
    from minillm.attention.flash import flash_attention

    return lambda q, k, v: lambda: flash_attention(q, k, v)


def flash_numba(threads: int) -> Callable:
    from minillm.backends.numba_ import attention

    return lambda q, k, v: lambda: attention(q, k, v)


def flash_numba_float16(threads: int) -> Callable:
    """Keys and values in half precision, half the bytes."""
    from minillm.backends.numba_ import attention

    def prepare(q: Array, k: Array, v: Array) -> Callable:
        k, v = k.astype(np.float16), v.astype(np.float16)
        return lambda: attention(q, k, v)

    return prepare


def paged_numba(threads: int, dtype: Any = np.float32) -> Callable:
    """The same keys and values in blocks, read through a block table."""
    from minillm.backends.numba_ import paged_attention

    def prepare(q: Array, k: Array, v: Array) -> Callable:
        table = np.random.default_rng(1).permutation(-(-len(k) // BLOCK))
        pages = [in_blocks(x, table).astype(dtype, copy=False) for x in (k, v)]
        return lambda: paged_attention(q, pages[0], pages[1], table, len(k))

    return prepare


def paged_numba_float16(threads: int) -> Callable:
    return paged_numba(threads, np.float16)


def torch(threads: int) -> Callable:
    import torch

    torch.set_num_threads(threads)
    attention = torch.nn.functional.scaled_dot_product_attention

    def prepare(q: Array, k: Array, v: Array) -> Callable:
        options = {"is_causal": len(q) > 1, "enable_gqa": q.shape[1] != k.shape[1]}
        q, k, v = (torch.from_numpy(x).transpose(0, 1)[None].contiguous() for x in (q, k, v))

        def work() -> Any:
            with torch.inference_mode():
                attention(q, k, v, **options)

        return work

    return prepare


OURS = naive_numpy, flash_numpy, flash_numba, flash_numba_float16, paged_numba, paged_numba_float16
IMPLEMENTATIONS = {f.__name__: f for f in (*OURS, torch)}
