"""KIVI: keys per channel, values per token, groups that are sealed; and what a query sees, which positions alone decide."""

import struct
from dataclasses import replace

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kv_help import G, grid, sealed_keys, sealed_values, seen

from minillm.backends import get_backend
from minillm.cache import kinds
from minillm.costs.memory import kv_bits
from minillm.errors import MiniLLMError, RequestError
from minillm.model.random_model import TINY
from minillm.quantization.kivi import KIVI, per_channel, per_token
from minillm.quantization.kv_formats import FORMATS

NUMPY = get_backend("numpy")

CONFIG = replace(TINY, n_layers=2, n_heads=4, n_kv_heads=2, d_head=8, context_length=400)


def draws(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


KEYS = {
    "a group": draws(0, 32, 2, 8),
    "one token": draws(1, 1, 3, 5),
    "zeros": np.zeros((32, 1, 8), np.float32),
    "constant channels": np.broadcast_to(draws(2, 1, 2, 8), (32, 2, 8)).copy(),
    "one outlier of 1e4": np.where(np.arange(8) == 3, np.float32(1e4), draws(3, 32, 2, 8)),
    "one head": draws(4, 7, 1, 3),
}


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("keys", KEYS)
def test_each_channel_has_a_grid_of_its_own(keys, bits):
    x = KEYS[keys]
    codes, scales, minima = per_channel(x, bits)
    assert codes.dtype == np.uint8 and codes.shape == x.shape and scales.shape == minima.shape == x.shape[1:]
    for h in range(x.shape[1]):
        for c in range(x.shape[2]):
            scale, minimum, expected = grid([float(v) for v in x[:, h, c]], bits)
            assert (scales[h, c], minima[h, c]) == (scale, minimum)
            np.testing.assert_array_equal(codes[:, h, c], expected)


@pytest.mark.parametrize("bits", [2, 4])
def test_each_token_of_values_has_a_grid_of_its_own(bits):
    x = draws(5, 9, 3, 8)
    codes, scales, minima = per_token(x, bits)
    np.testing.assert_array_equal((codes * scales + minima).astype(np.float32), sealed_values(x, bits))
    np.testing.assert_array_equal(KIVI[f"kivi{bits}"].decode_values(KIVI[f"kivi{bits}"].encode_values(x)), sealed_values(x, bits))


@pytest.mark.parametrize("name", KIVI)
@pytest.mark.parametrize(("heads", "d"), [(1, 8), (2, 24), (3, 64)])
def test_rows_hold_codes_and_a_share_of_the_scales(name, heads, d):
    made, keys = KIVI[name], draws(d, 2 * G, heads, d)
    rows = made.encode_keys(keys)
    assert rows.shape == (2 * G, heads, made.widths(d)[0]) and rows.dtype == np.uint8
    expected = np.concatenate([sealed_keys(group, made.bits) for group in (keys[:G], keys[G:])])
    np.testing.assert_array_equal(made.decode_keys(rows), expected)
    codes, scales, minima = per_channel(keys[G:], made.bits)
    for h in range(heads):  # by hand: the codes of token 5, lowest bits first; the shares of all tokens in a row
        packed = int.from_bytes(bytes(rows[G + 5, h, : d * made.bits // 8]), "little")
        assert [packed >> made.bits * i & 2**made.bits - 1 for i in range(d)] == codes[5, h].tolist()
        halves = struct.unpack(f"<{2 * d}e", b"".join(bytes(rows[G + t, h, d * made.bits // 8 :]) for t in range(G)))
        assert halves == (*scales[h], *minima[h])


@pytest.mark.parametrize("name", KIVI)
@pytest.mark.parametrize("d", [8, 64, 128])
def test_bytes_are_the_stated_bits(name, d):
    assert 8 * sum(KIVI[name].widths(d)) / (2 * d) == kv_bits(name, d)


def test_an_outlier_channel_costs_less_per_channel():
    keys = draws(6, G, 2, 64)
    keys[:, :, 11] = 40 + keys[:, :, 11]  # as models have them: large in every token, and nearly the same
    plain = FORMATS["int4"]
    by_token = np.square(plain.decode(plain.encode(keys)) - keys).mean()
    by_channel = np.square(KIVI["kivi4"].decode_keys(KIVI["kivi4"].encode_keys(keys)) - keys).mean()
    assert by_channel < by_token / 20


# --- what a query sees --------------------------------------------------------------------------------------------------------


def cache_of(kind, name):
    return kinds.new_cache(CONFIG, name) if kind == "contiguous" else kinds.new_store(CONFIG, name, 8, kind).new_cache()


@pytest.mark.parametrize("name", KIVI)
@pytest.mark.parametrize("kind", ["contiguous", 32, 64])
@pytest.mark.parametrize("pieces", [[1, 2, 28], [33], [64, 1, 1], [70, 30, 5], [31, 1, 1, 31, 1], [32, 32]])
def test_each_query_sees_its_own_group_in_full_and_those_before_as_sealed(name, kind, pieces):
    cache, n = cache_of(kind, name), sum(pieces)
    k, v, q = draws(7, n, 2, 8), draws(8, n, 2, 8), draws(9, n, 4, 8)
    found, at = [], 0
    for piece in pieces:
        for layer in range(2):
            cache.append(layer, k[at : at + piece], v[at : at + piece])
            out = cache.attend(NUMPY, layer, q[at : at + piece])
        found.append(out)
        at += piece
        assert all(len(kept) < 2 * G for kept in (*cache.window.k, *cache.window.v)), "own group and the one before, no more"
    expected = [oracles.attention(q[i : i + 1], *seen(name, k, v, i))[0] for i in range(n)]
    np.testing.assert_allclose(np.concatenate(found), expected, atol=2e-5)


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(list(KIVI)),
    kind=st.sampled_from(["contiguous", 32, 64]),
    moves=st.lists(st.tuples(st.integers(1, 45), st.integers(0, 40)), min_size=1, max_size=6),
    seed=st.integers(0, 2**32 - 1),
)
def test_going_back_and_on_leaves_no_trace(name, kind, moves, seed):
    """A draft is taken back and others come in its place: the same as if they had come at once."""
    cache, rng = cache_of(kind, name), np.random.default_rng(seed)
    k = v = np.empty((0, 2, 8), np.float32)
    for more, back in moves:
        new = rng.standard_normal((2, more, 2, 8)).astype(np.float32)
        for layer in range(2):
            cache.append(layer, *new)
            cache.attend(NUMPY, layer, np.ones((more, 4, 8), np.float32))
        length = cache.truncatable(max(0, cache.length - back))
        cache.truncate(length)
        k, v = (np.concatenate([x, own])[:length] for x, own in zip((k, v), new, strict=True))
        for layer in range(2):
            one = np.zeros((1, 2, 8), np.float32)  # as the next token sees what is there
            expected = seen(name, np.concatenate([k, one]), np.concatenate([v, one]), length)
            np.testing.assert_array_equal(cache.read(layer), [x[:-1] for x in expected])


# --- going back ---------------------------------------------------------------------------------------------------------------


def filled(kind, n, name="kivi4"):
    cache = cache_of(kind, name)
    for layer in range(2):
        cache.append(layer, draws(10, n, 2, 8), draws(11, n, 2, 8))
        cache.attend(NUMPY, layer, draws(12, n, 4, 8))
    return cache


@pytest.mark.parametrize("kind", ["contiguous", 32, 64])
@pytest.mark.parametrize("n", [33, 64, 97, 130])
def test_a_draft_of_up_to_32_tokens_can_always_be_taken_back(kind, n):
    for back in range(33):
        cache = filled(kind, n)
        assert cache.truncatable(n - back) == n - back
        cache.truncate(n - back)
        assert cache.length == n - back


@pytest.mark.parametrize("kind", ["contiguous", 32])
def test_further_back_one_goes_to_where_a_group_begins_or_is_told(kind):
    cache = filled(kind, 130)
    before = np.array(cache.read(0))
    with pytest.raises(RequestError, match=r"kivi4 cache of 130 tokens to 70: those from 96 on .* Truncate to 64 first"):
        cache.truncate(70)
    assert cache.length == 130
    np.testing.assert_array_equal(cache.read(0), before)
    assert [cache.truncatable(n) for n in (130, 100, 96, 95, 64, 63, 31, 0)] == [130, 100, 96, 64, 64, 32, 0, 0]
    cache.truncate(64)
    assert cache.length == 64 and cache.truncatable(63) == 32
    for length in (-1, 65):
        with pytest.raises(RequestError, match="64 tokens"):
            cache.truncate(length)
    assert all(len(x) == 0 for x in (*cache.window.k, *cache.window.v)), "nothing before 64 is kept in full any more"
    fresh = filled(kind, 64)
    for one in (cache, fresh):
        for layer in range(2):
            one.append(layer, draws(13, 40, 2, 8), draws(14, 40, 2, 8))
    np.testing.assert_array_equal(cache.read(1), fresh.read(1))


def test_an_interrupted_step_can_be_taken_back_however_long_it_was():
    cache = filled("contiguous", 50)
    before = np.array(cache.read(1))
    cache.append(0, draws(1, 200, 2, 8), draws(2, 200, 2, 8))
    cache.attend(NUMPY, 0, draws(3, 200, 4, 8))
    cache.truncate(cache.length)
    assert cache.lengths == [50, 50]
    np.testing.assert_array_equal(cache.read(1), before)


@pytest.mark.parametrize("kind", ["contiguous", 32, 64])
def test_a_fork_goes_its_own_way_within_an_open_group(kind):
    first = filled(kind, 40)
    second = first.fork()
    before = np.array(second.read(0))
    for layer in range(2):
        first.append(layer, draws(20, 40, 2, 8), draws(21, 40, 2, 8))
    np.testing.assert_array_equal(second.read(0), before)
    for layer in range(2):
        second.append(layer, draws(30, 40, 2, 8), draws(31, 40, 2, 8))
    for cache, seed in ((first, 20), (second, 30)):
        k, v = (np.concatenate([draws(a, 40, 2, 8), draws(b, 40, 2, 8)]) for a, b in ((10, seed), (11, seed + 1)))
        one = np.zeros((1, 2, 8), np.float32)
        expected = seen("kivi4", np.concatenate([k, one]), np.concatenate([v, one]), 80)
        for layer in range(2):
            np.testing.assert_array_equal(cache.read(layer), [x[:-1] for x in expected])


# --- refused ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 8, 16, 48])
def test_blocks_that_would_cut_a_group_are_refused(size):
    with pytest.raises(RequestError, match=f"multiple of 32, found {size}"):
        kinds.new_store(CONFIG, "kivi2", 8, size)


def test_heads_that_do_not_fit_are_refused():
    with pytest.raises(MiniLLMError, match="multiple of 8, found 12"):
        kinds.new_cache(replace(CONFIG, d_head=12), "kivi2")


@pytest.mark.parametrize("bad", [np.nan, np.inf, 7e4])
def test_what_float16_cannot_hold_is_refused_and_nothing_is_kept(bad):
    cache, k = filled("contiguous", 3), draws(0, 2, 2, 8)
    k[1, 1, 4] = bad
    with pytest.raises(MiniLLMError, match="kivi4 takes finite numbers up to 65,504; found 1 of 32"):
        cache.append(0, draws(1, 2, 2, 8), k)
    assert cache.lengths == [3, 3] and cache.window.end == 3


def test_a_cache_that_begins_within_a_group_needs_the_groups_tokens():
    store, whole = kinds.new_store(CONFIG, "kivi4", 8), filled(32, 40)
    table = whole.table
    cache = whole.store.cache_of(table)
    with pytest.raises(MiniLLMError, match="position 40 is within a group whose tokens this kivi4 cache was not given"):
        cache.append(0, draws(0, 1, 2, 8), draws(0, 1, 2, 8))
    with pytest.raises(MiniLLMError, match="goes on with its own group"):
        cache.resume(filled(32, 39).window)
    cache.resume(whole.window)
    np.testing.assert_array_equal(cache.read(0), whole.read(0))
    assert store.pool.num_free == 8
