"""Contracts in writing are kept: each class has what its protocol says, under the same names, taken in the same order."""

import inspect
from dataclasses import replace

import numpy as np
import pytest

from minillm.cache import kinds
from minillm.cache.contiguous import ContiguousCache
from minillm.cache.kivi import KiviCache
from minillm.cache.paged import PagedCache, PageStore
from minillm.cache.protocol import KVCache
from minillm.cache.quantized import QuantizedCache
from minillm.engine.executor import ModelExecutor
from minillm.model.random_model import TINY
from minillm.scheduler.plan import Executor

CACHES = ContiguousCache, PagedCache, QuantizedCache, KiviCache
CONTRACTS = [*((KVCache, cache) for cache in CACHES), (Executor, ModelExecutor)]
QUANTIZED = replace(TINY, n_layers=2, n_heads=2, n_kv_heads=1, d_head=8, context_length=32)


def calls(protocol):  # -> {name: parameters}
    return {name: [*inspect.signature(f).parameters] for name, f in vars(protocol).items() if promised(name) and callable(f)}


def promised(name):
    return not name.startswith("_")


@pytest.mark.parametrize("protocol, made", CONTRACTS, ids=lambda c: c.__name__)
def test_a_class_takes_what_its_protocol_says(protocol, made):
    assert calls(protocol), "a protocol without a call promises nothing"
    for name, expected in calls(protocol).items():
        found = inspect.signature(getattr(made, name)).parameters
        assert [*found][: len(expected)] == expected, f"{made.__name__}.{name}"
        more = [*found.values()][len(expected) :]
        assert all(p.default is not p.empty for p in more), f"{made.__name__}.{name} asks for more than the protocol gives"
    for name, value in vars(protocol).items():
        if promised(name) and isinstance(value, property):
            assert isinstance(getattr(made, name), property), f"{made.__name__}.{name}"


MADE = {
    "contiguous": lambda: ContiguousCache(2, 1, 8, 32),
    "paged": lambda: PageStore(2, 1, 8, 8, 4).new_cache(),
    **{kv: lambda kv=kv: kinds.new_cache(QUANTIZED, kv) for kv in ("int8", "rot4", "kivi4")},
    **{f"{kv} paged": lambda kv=kv: kinds.new_store(QUANTIZED, kv, 8).new_cache() for kv in ("int4", "fp8", "kivi2")},
}


@pytest.mark.parametrize("made", MADE)
def test_a_cache_is_a_cache_and_its_calls_do_what_the_protocol_says(made):
    cache, rows = MADE[made](), np.ones((3, 1, 8), np.float32)
    assert isinstance(cache, KVCache) and not isinstance(object(), KVCache)
    numbers = cache.indices(3)
    assert all(a.dtype == np.int64 and a.ndim == 1 for a in numbers) and cache.length == 0 and cache.lengths == [0, 0]
    cache.place(numbers)
    cache.append(0, rows, 2 * rows)
    assert cache.length == 0 and cache.lengths == [3, 0], "a step is complete when every layer has it"
    cache.append(1, rows, 2 * rows)
    k, v = cache.read(1)
    np.testing.assert_allclose((k, v), (rows, 2 * rows), rtol=1e-2)
    assert cache.length == 3 and cache.nbytes > 0 and cache.truncatable(1) == 1
    k_pages, v_pages, table = cache.pages()
    assert k_pages.ndim == v_pages.ndim == 5 and len(table) == 1
    other = cache.fork()
    other.truncate(1)
    assert (cache.length, other.length) == (3, 1) and isinstance(other, type(cache))
