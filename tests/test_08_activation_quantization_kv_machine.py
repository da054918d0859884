"""Whatever is done to quantized caches, they show what their tokens say; and pages carry the bytes of rows unchanged.

A state machine tells a contiguous and a paged cache the same things: append, interrupt, truncate, fork, swap, free. What they
must show is computed anew from the tokens, since a quantized token depends on its position alone (or on itself alone).
"""

from dataclasses import replace

import numpy as np
import oracles
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from kv_help import QUANTIZED, G, seen

from minillm.backends import get_backend
from minillm.cache import kinds
from minillm.cache.paged import move_to_store
from minillm.cache.prefix import HashPrefixCache
from minillm.costs.memory import KV_NAMES, kivi_window_bytes, kv_bits, kv_token_bytes
from minillm.errors import MiniLLMError, OutOfBlocks, RequestError
from minillm.model.random_model import TINY
from minillm.quantization.kivi import KIVI
from minillm.quantization.kv_formats import FORMATS

CONFIG = replace(TINY, n_layers=2, n_heads=2, n_kv_heads=2, d_head=8, context_length=150)
NUMPY = get_backend("numpy")
NAMES = st.sampled_from([*QUANTIZED, *KIVI, *KIVI])  # there is more to go wrong


def rows(rng, n):
    """Keys and values of n tokens for every layer."""
    return rng.standard_normal((2, CONFIG.n_layers, n, CONFIG.n_kv_heads, CONFIG.d_head)).astype(np.float32)


def fill(cache, n, seed=0):
    new = rows(np.random.default_rng(seed), n)
    for layer in range(CONFIG.n_layers):
        cache.append(layer, *new[:, layer])
    return new


class Tokens:
    """One sequence: its caches, and the numbers of its tokens. shown: what the caches must read as, for each layer."""

    def __init__(self, name, plain, paged, kv):
        self.name, self.caches, self.kv = name, (plain, paged), kv

    def shown(self, layer):
        n = self.kv.shape[2]
        one_more = np.concatenate([self.kv[:, layer], np.zeros((2, 1, *self.kv.shape[3:]), np.float32)], axis=1)
        return [x[:-1] for x in seen(self.name, *one_more, n)]  # as the next token sees them


class Side(RuleBasedStateMachine):
    """A refusal must change neither content."""

    @initialize(data=st.data(), name=NAMES, blocks=st.integers(2, 9), seed=st.integers(0, 2**32 - 1))
    def begin(self, data, name, blocks, seed):
        size = data.draw(st.sampled_from([32, 64] if name in KIVI else [1, 4, 32]))
        blocks *= 1 if name in KIVI else 8
        self.rng, self.name = np.random.default_rng(seed), name
        self.device, self.host = (kinds.new_store(CONFIG, name, blocks, size) for _ in range(2))
        for store in (self.device, self.host):  # slots never written must never be read
            store.k[:], store.v[:] = 255, 255
        self.all, self.here = [], self.device
        self.arrive()

    @precondition(lambda self: len(self.all) < 4)
    @rule()
    def arrive(self):
        none = np.empty((2, CONFIG.n_layers, 0, CONFIG.n_kv_heads, CONFIG.d_head), np.float32)
        paged = self.here.new_cache(max_length=CONFIG.context_length)
        self.all.append(Tokens(self.name, kinds.new_cache(CONFIG, self.name), paged, none))

    def pick(self, data):
        return data.draw(st.sampled_from(self.all))

    @precondition(lambda self: self.all)
    @rule(data=st.data(), n=st.integers(0, 45), look=st.booleans())
    def append(self, data, n, look):
        one, new = self.pick(data), rows(self.rng, n)
        try:
            one.caches[1].append(0, *new[:, 0])
        except (OutOfBlocks, RequestError):
            return
        one.caches[0].append(0, *new[:, 0])
        for cache in one.caches:
            for layer in range(CONFIG.n_layers):
                if layer:
                    cache.append(layer, *new[:, layer])
                if look and n:
                    cache.attend(NUMPY, layer, np.ones((n, CONFIG.n_heads, CONFIG.d_head), np.float32))
        one.kv = np.concatenate([one.kv, new], axis=2)

    @precondition(lambda self: self.all)
    @rule(data=st.data(), n=st.integers(1, 70))
    def interrupted_step(self, data, n):
        """The first layer is ahead when something goes wrong; truncating to `length` evens it out."""
        one, new = self.pick(data), rows(self.rng, n)
        try:
            one.caches[1].append(0, *new[:, 0])
            one.caches[0].append(0, *new[:, 0])
        except (OutOfBlocks, RequestError):
            pass
        for cache in one.caches:
            cache.truncate(cache.length)

    @precondition(lambda self: self.all)
    @rule(data=st.data(), anywhere=st.booleans())
    def truncate(self, data, anywhere):
        one = self.pick(data)
        length = data.draw(st.integers(0, one.kv.shape[2]))
        reach = min(cache.truncatable(length) for cache in one.caches)
        assert reach <= length and (reach == length or self.name in KIVI and length < one.kv.shape[2] - G)
        for cache in one.caches:
            if anywhere and cache.truncatable(length) != length:
                with pytest.raises(RequestError, match="first"):
                    cache.truncate(length)
            cache.truncate(reach)
        one.kv = one.kv[:, :, :reach]

    @precondition(lambda self: self.all and len(self.all) < 4)
    @rule(data=st.data())
    def fork(self, data):
        one = self.pick(data)
        self.all.append(Tokens(self.name, *(cache.fork() for cache in one.caches), one.kv.copy()))

    @precondition(lambda self: self.all)
    @rule()
    def swap(self):
        there = self.host if self.here is self.device else self.device
        try:
            move_to_store([one.caches[1] for one in self.all], there)
        except OutOfBlocks:
            return
        self.here = there

    @precondition(lambda self: self.all)
    @rule(data=st.data())
    def free(self, data):
        one = self.pick(data)
        self.all.remove(one)
        one.caches[1].free()

    @invariant()
    def tokens_decide_what_is_seen(self):
        for one in getattr(self, "all", ()):
            plain, paged = one.caches
            assert plain.lengths == paged.lengths == [one.kv.shape[2]] * CONFIG.n_layers
            for layer in range(CONFIG.n_layers):
                for a, b, expected in zip(plain.read(layer), paged.read(layer), one.shown(layer), strict=True):
                    np.testing.assert_array_equal(a, expected)
                    np.testing.assert_array_equal(b, a)

    @invariant()
    def blocks_are_owned_by_tables_alone(self):
        for store in (self.device, self.host) if hasattr(self, "device") else ():
            owners = [b for one in self.all if one.caches[1].store is store for b in one.caches[1].table.blocks]
            assert store.pool.refs == [owners.count(block) for block in range(store.pool.num_blocks)]


TestSide = Side.TestCase
TestSide.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", ["contiguous", 1, 16])
@pytest.mark.parametrize("pieces", [[1], [1, 1, 5], [33, 2], [17, 1, 30]])
def test_attention_is_that_over_the_floats_that_rows_stand_for(name, kind, pieces):
    """Also rot4: in turned axes, and turned back."""
    config, n = replace(CONFIG, n_heads=4), sum(pieces)
    cache = kinds.new_cache(config, name) if kind == "contiguous" else kinds.new_store(config, name, 64, kind).new_cache()
    new, q = rows(np.random.default_rng(0), n), np.random.default_rng(1).standard_normal((n, 4, 8)).astype(np.float32)
    found, at = [], 0
    for piece in pieces:
        for layer in range(CONFIG.n_layers):
            cache.append(layer, *new[:, layer, at : at + piece])
            out = cache.attend(NUMPY, layer, q[at : at + piece])
        found.append(out)
        at += piece
    expected = oracles.attention(q, *seen(name, *new[:, -1], n - 1))
    np.testing.assert_allclose(np.concatenate(found), expected, atol=2e-5)


# --- bytes are carried, not made again ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", QUANTIZED)
def test_a_swap_there_and_back_and_a_prefix_hit_keep_every_byte(name):
    store, host = (kinds.new_store(CONFIG, name, 8, 32) for _ in range(2))
    prefixes = HashPrefixCache(store.pool)
    cache = store.new_cache()
    fill(cache, 64)
    before = [np.array(x) for layer in range(2) for x in cache.rows.read(layer)]
    move_to_store([cache], host)
    store.k[:], store.v[:] = 7, 7
    move_to_store([cache], store)
    after = [np.array(x) for layer in range(2) for x in cache.rows.read(layer)]
    prefixes.commit(list(range(64)), cache.table.blocks)
    cache.free()
    again = store.new_cache(prefixes.match([*range(64), 99]))
    found = [np.array(x) for layer in range(2) for x in again.rows.read(layer)]
    for a, b, c in zip(before, after, found, strict=True):
        assert a.dtype == np.uint8 and a.tobytes() == b.tobytes() == c.tobytes()


# --- bytes are the stated ones ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [8, 64, 128])
@pytest.mark.parametrize("name", QUANTIZED)
def test_all_arrays_add_up_to_the_stated_bits(name, d):
    config, tokens = replace(CONFIG, d_head=d, context_length=2048), 1024
    numbers = 2 * config.n_layers * config.n_kv_heads * d
    store = kinds.new_store(config, name, tokens // 32, 32)
    cache = kinds.new_cache(config, name)
    kv = np.random.default_rng(0).standard_normal((1024, config.n_kv_heads, d)).astype(np.float32)
    paged = store.new_cache()
    for one in (cache, paged):
        for layer in range(config.n_layers):
            one.append(layer, kv, kv)
            one.attend(NUMPY, layer, np.ones((1, config.n_heads, d), np.float32))
    window = kivi_window_bytes(config, name)
    stated = kv_bits(name, d) * numbers * tokens / 8
    assert stated == tokens * kv_token_bytes(config, name)
    assert cache.rows.k.shape[1] == tokens
    for arrays in ((store.k, store.v), (cache.rows.k, cache.rows.v)):
        assert sum(x.nbytes for x in arrays) <= 1.02 * stated
    for one in (cache, paged):
        kept = sum(x.nbytes for x in (*one.window.k, *one.window.v)) if name in KIVI else 0
        assert kept <= window and one.nbytes <= 1.02 * stated + window


def test_formulas_of_bytes():
    """By hand, for heads of 64: codes, and what a row or a group has besides."""
    assert {name: kv_bits(name, 64) for name in KV_NAMES} == {
        "float32": 32, "float16": 16, "int8": 8.25, "fp8": 8.25, "int4": 4.5, "rot4": 4.5, "kivi2": 2.75, "kivi4": 4.75,
    }  # fmt: skip
    with pytest.raises(MiniLLMError, match="found 'int3'"):
        kv_bits("int3", 64)
    assert kivi_window_bytes(CONFIG, "int4") == 0


# --- refused ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", ["contiguous", "paged"])
def test_nan_is_refused_and_nothing_is_kept(name, kind):
    cache = kinds.new_cache(CONFIG, name) if kind == "contiguous" else kinds.new_store(CONFIG, name, 8, 4).new_cache()
    fill(cache, 3)
    before = np.array(cache.read(0))
    k = np.ones((2, 2, 8), np.float32)
    k[1, 0, 5] = np.nan
    with pytest.raises(MiniLLMError, match=f"{name} takes finite numbers; found 1 of 32"):
        cache.append(0, k, np.ones_like(k))
    assert cache.lengths == [3, 3]
    np.testing.assert_array_equal(cache.read(0), before)


@pytest.mark.parametrize(("name", "d", "says"), [("rot4", 24, "power of two"), ("kivi4", 4, "multiple of 8")])
def test_heads_that_do_not_fit_are_refused(name, d, says):
    config = replace(CONFIG, d_head=d)
    for make in (kinds.new_cache, lambda *made: kinds.new_store(*made, 4)):
        with pytest.raises(MiniLLMError, match=says):
            make(config, name)
