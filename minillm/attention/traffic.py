"""Counting what attention moves: a slow memory that keeps a tally, and a fast one that knows how full it was.

A GPU has much slow memory (HBM) and little fast memory (SRAM); arithmetic happens in the fast one, and for attention the
way between them is the cost. Here that is two kinds of array. A slice read from a `Slow` array is a load, a slice
written is a store. What a load gives is `Fast`, and so is all that is computed from it, until Python forgets it.

    slow memory   Q K V O, lse         q[rows] ──load──►   fast memory   tiles, scores, m l acc
    any size, nothing computes here    ◄──store── out[rows] = …          peak = most elements held at any one time

The loops of flash.py run on these arrays unchanged, and what was counted equals, to the element,

    standard           2(Nq + Nk)d + 4·Nq·Nk                      = 4Nd + 4N²
    FlashAttention-1   2·Nk·d + 3·Nq·d·Tc + (4·Nq·Tc + 3·Nq)      (…): m and l in and out per tile; both in, lse out at the end
    FlashAttention-2   2·Nq·d + 2·Nk·d·Tr + (Nq)                  (…): the log-sum-exp, once

With Tc = Nk / Bc and Bc = M / 4d the second is about 12·N²d²/M: twice the fast memory, half the traffic.

Not counted: room made in slow memory (the zeros that O and l start from), and masks, which are a rule and not data.
Dao et al. 2022, arXiv:2205.14135, Algorithms 0 and 1, Theorem 2. Dao 2023, arXiv:2307.08691, Algorithm 1.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy import ndarray as Array

from minillm.attention.mask import Mask, tiles
from minillm.layers import softmax


@dataclass
class TileAccess:
    """The elements moved for one tile, by array. parts: the slice of each array that was touched."""

    loads: Counter = field(default_factory=Counter)
    stores: Counter = field(default_factory=Counter)
    parts: dict = field(default_factory=dict)
    flops: int = 0  # of matrix products
    rows: slice | None = None  # of Q, filled in by tile_walk
    columns: slice | None = None  # of K and V; None where no keys are at work


@dataclass
class Traffic:
    """The tally of one run, in elements; bytes moved beside it. operations: elementwise, by NumPy's name of them."""

    loads: int = 0
    stores: int = 0
    bytes: int = 0
    held: int = 0  # in fast memory now
    peak: int = 0
    flops: int = 0
    operations: Counter = field(default_factory=Counter)
    steps: list = field(default_factory=list, repr=False)

    @property
    def moved(self) -> int:
        """Loads and stores together: what the formulas count."""
        return self.loads + self.stores

    def slow(self, name: str, array: Array) -> "Slow":  # (n, ...) -> Slow
        return Slow(self, name, array)

    def fast(self, array: Array) -> Array:  # (...) -> Fast
        """Copy this array into fast memory."""
        tile = np.ndarray.__new__(Fast, array.shape, array.dtype)
        tile.traffic = self
        self.hold(tile.size)
        tile.view(np.ndarray)[...] = array
        return tile

    def hold(self, elements: int) -> None:
        self.held += elements
        self.peak = max(self.peak, self.held)

    def access(self, kind: str, slow: "Slow", part: slice) -> None:
        """Count one load or store of a Slow array's part. A step begins with a load after a store, or with a load repeated."""
        step = self.steps[-1] if self.steps else None
        if step is None or kind == "loads" and (step.stores or slow.name in step.loads):
            self.steps.append(step := TileAccess())
        elements = slow.data[part].size
        getattr(step, kind)[slow.name] += elements
        step.parts[slow.name] = slice(*part.indices(len(slow.data))[:2])
        setattr(self, kind, getattr(self, kind) + elements)
        self.bytes += elements * slow.dtype.itemsize


class Slow:
    """An array in slow memory: it can be read and written by slices of rows, and nothing else."""

    __array_ufunc__ = None  # arithmetic on slow memory is an error: load first

    def __init__(self, traffic: Traffic, name: str, data: Array) -> None:
        self.traffic, self.name, self.data = traffic, name, data
        self.shape, self.dtype = data.shape, data.dtype

    def __getitem__(self, part: slice) -> Array:  # slice -> Fast
        self.traffic.access("loads", self, part)
        return self.traffic.fast(self.data[part])

    def __setitem__(self, part: slice, value: Any) -> None:
        self.traffic.access("stores", self, part)
        self.data[part] = value

    def __array_function__(self, function: Callable, types: Any, args: Any, kwargs: Any) -> Any:
        """Make more slow memory: np.zeros_like and its kin."""
        if function not in (np.zeros_like, np.empty_like, np.ones_like, np.full_like):
            return NotImplemented
        return Slow(self.traffic, f"{function.__name__}({self.name})", function(self.data, *args[1:], **kwargs))


class Fast(np.ndarray):
    """An array in fast memory. One that owns its memory counts as held from its making to its end; a view is free.

    CPython ends an array with the last reference to it, at once: that is what makes the peak exact.
    """

    traffic: Any = None  # a Traffic; None where NumPy made the array

    def __array_finalize__(self, source: Any) -> None:  # NumPy calls this for copies and views alike
        self.traffic = getattr(source, "traffic", None)
        if self.traffic is not None and self.base is None:
            self.traffic.hold(self.size)

    def __del__(self) -> None:
        if self.traffic is not None and self.base is None:
            self.traffic.held -= self.size

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **kwargs: Any) -> Any:
        """Run all arithmetic: compute as plain NumPy does, count it, keep the result in fast memory."""
        plain = [x.view(np.ndarray) if isinstance(x, Fast) else x for x in inputs]
        if out is not None:  # in place
            kwargs["out"] = tuple(x.view(np.ndarray) if isinstance(x, Fast) else x for x in out)
        result = getattr(ufunc, method)(*plain, **kwargs)
        if ufunc is np.matmul:
            flops = 2 * np.size(result) * plain[0].shape[-1]
            self.traffic.flops += flops
            self.traffic.steps[-1].flops += flops
        else:
            self.traffic.operations[ufunc.__name__] += max(np.size(x) for x in (*plain, result))
        result = result if out is None else out[0]
        return self.traffic.fast(result) if type(result) is np.ndarray else result

    def __array_function__(self, function: Callable, types: Any, args: Any, kwargs: Any) -> Any:
        """Run np.where and others that are no ufuncs: their results are in fast memory too."""
        result = super().__array_function__(function, types, args, kwargs)
        return self.traffic.fast(result) if type(result) is np.ndarray else result


def standard_head(q: Slow, k: Slow, v: Slow, scores: Slow, probabilities: Slow, out: Slow, mask: Mask, block_q: int = 64) -> None:
    """(n_q, d), (n_k, d), (n_k, d), (n_q, n_k), (n_q, n_k), (n_q, d): one head in three passes, each through slow memory.

    One kernel for S = QKᵀ, one for the softmax, one for PV (the paper's Algorithm 0). In its favour, fast memory is taken
    to hold all of K, then all of V. With less it would read them again and again as well.
    """
    scale = 1 / np.sqrt(np.float32(q.shape[1]))
    everything, keys = tiles(0, mask.n_q, block_q), slice(0, mask.n_k)
    k_all = k[keys]
    for rows in everything:
        scores[rows] = mask.scores(q[rows] @ k_all.T * scale, rows, keys)
    del k_all
    for rows in everything:
        probabilities[rows] = softmax(scores[rows])
    v_all = v[keys]
    for rows in everything:
        out[rows] = probabilities[rows] @ v_all


def counted(  # (n_q, d), (n_k, d), (n_k, d) -> Traffic, (n_q, d), (n_q,)
    head: Callable, q: Array, k: Array, v: Array, mask: Mask, block_q: int, block_k: int
) -> tuple[Traffic, Array, Array]:
    """Run flash1_head, flash2_head or standard_head on counted arrays; lse stays -inf for the last."""
    traffic, out, lse = Traffic(), np.zeros_like(q), np.full(len(q), -np.inf, q.dtype)
    slow = [traffic.slow(name, x) for name, x in zip(("q", "k", "v", "out"), (q, k, v, out), strict=True)]
    if head is standard_head:
        matrix = np.empty((mask.n_q, mask.n_k), out.dtype)
        s, p = traffic.slow("scores", matrix), traffic.slow("probabilities", matrix.copy())
        head(*slow[:3], s, p, slow[3], mask, block_q)
    else:
        head(*slow, traffic.slow("lse", lse), mask, block_q, block_k)
    return traffic, out, lse


def measure(head: Callable, n_q: int, n_k: int, d: int, block_q: int, block_k: int, causal: bool = False) -> Traffic:
    """Measure the Traffic of one head on random float32 inputs: .loads, .stores, .moved, .peak, .flops, .operations, .steps."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((n, d), np.float32) for n in (n_q, n_k, n_k))
    return counted(head, q, k, v, Mask(n_q, n_k, causal), block_q, block_k)[0]


def tile_walk(head: Callable, n_q: int, n_k: int, d: int, block_q: int, block_k: int, causal: bool = False) -> list[TileAccess]:
    """List the tiles in the order of their visits, with what is moved for each: a run of `measure`, step by step.

    A step without matrix product (the softmax of `standard_head`, the last pass of FlashAttention-1) has no columns.
    """
    rows = columns = None
    steps = measure(head, n_q, n_k, d, block_q, block_k, causal).steps
    for step in steps:
        rows = next((part for name, part in step.parts.items() if name not in "kv"), rows)  # else as before
        columns = step.parts.get("k", step.parts.get("v", columns))
        step.rows, step.columns = rows, columns if step.flops else None
    return steps
