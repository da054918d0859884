"""Exercises of lesson 02: a cache against a plain list, how it grows, grouped heads, the bytes of a step."""

from dataclasses import replace

import mistakes
import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.attention.naive import attention
from minillm.backends import numpy_
from minillm.backends.ops import ops_of
from minillm.cache.contiguous import ContiguousCache
from minillm.course.checks import answers, check_close, draws, exercise, seeds
from minillm.errors import MiniLLMError, RequestError
from minillm.model.presets import preset

LAYERS, KV_HEADS, D = 3, 2, 4


def new_cache(max_length=500, dtype=np.float32):
    return ContiguousCache(LAYERS, KV_HEADS, D, max_length, dtype)


def fill(cache, seed, count):
    """Append `count` random tokens to every layer; return what went in, per layer. Copies are handed out."""
    k, v = draws(seed, (LAYERS, count, KV_HEADS, D), (LAYERS, count, KV_HEADS, D))
    for layer in range(LAYERS):
        cache.append(layer, k[layer].copy(), v[layer].copy())
    return k, v


def check_holds(cache, k, v, what="the cache", mistakes=dict):
    """Every layer reads back exactly these keys and values. mistakes() may name others: {words: (k, v) of all layers}."""
    for layer in range(LAYERS):
        for side, found, right in zip("KV", cache.read(layer), (k, v), strict=True):
            n = right.shape[1]
            m, room = len(found), cache.k.shape[1]
            assert m == n, f"layer {layer} of {what} must read {n} tokens, found {m}{', all that is reserved' * (m == room)}"

            def here(i=int(side == "V"), layer=layer):
                return {words: pair[i][layer] for words, pair in mistakes().items()}

            check_close(found, right[layer], rtol=0, atol=0, what=f"{side} of layer {layer} in {what}", mistakes=here)


# --- 02.1 -----------------------------------------------------------------------------------------------------------


@exercise(
    "02.1",
    points=1,
    hint=(
        "Where do the new rows begin, and is there room for them yet?",
        "Within a step early layers are ahead: each layer counts for itself.",
    ),
)
def test_layers_count_for_themselves():
    cache, k = new_cache(), draws(1, (3, KV_HEADS, D))
    cache.append(0, k[:2].copy(), k[:2].copy())
    assert cache.lengths == [2, 0, 0], f"after layer 0 took 2 tokens, lengths must be [2, 0, 0], found {cache.lengths}"
    cache.append(0, k[2:].copy(), k[2:].copy())
    assert cache.lengths == [3, 0, 0], f"after layer 0 took 2 tokens and 1 more, lengths must be [3, 0, 0], found {cache.lengths}"
    assert cache.length == 0, "a token counts when every layer holds it"
    check_close(cache.read(0)[0], k, rtol=0, atol=0, what="K of the layer that is ahead")
    cache = new_cache()
    with answers("an append to layer 1, before any to layer 0,", "Each append asks for room itself."):
        cache.append(1, k.copy(), k.copy())
    found = len(cache.read(1)[0])
    assert found == 3, f"3 tokens went to layer 1 first, and {found} are in it: each append asks for room itself"


@exercise(
    "02.1",
    points=1,
    hint=(
        "Call reserve first: it may replace the arrays. The rows go to lengths[layer] … + n; then that length grows.",
        "start = self.lengths[layer]; end = start + len(k); self.reserve(end); self.k[layer, start:end] = k; and so on.",
    ),
)
@given(seed=seeds, pieces=st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_what_is_appended_in_pieces_is_read_as_a_whole(seed, pieces):
    cache, n = new_cache(), sum(pieces)
    parts = [fill(cache, seed + i, n) for i, n in enumerate(pieces)]
    k, v = (np.concatenate(side, axis=1) for side in zip(*parts, strict=True))
    each, room = [n] * LAYERS, cache.k.shape[1]
    assert cache.lengths == each, f"every layer was fed {pieces} tokens: lengths must be {each}, found {cache.lengths}"
    assert room >= n, f"tokens appended: {n}, room in the arrays: {room}. NumPy drops the rest without a word: reserve first"
    ways = {"keys are stored as values too": (k, k), "values are stored as keys too": (v, v), "K and V change places": (v, k)}
    check_holds(cache, k, v, what=f"a cache fed {pieces} tokens", mistakes=lambda: ways)


@exercise("02.1", points=1, hint="Past the capacity, reserve makes new arrays, twice as large, and copies what was there.")
@pytest.mark.parametrize("pieces", [(70,), (64, 1), (63, 2, 130), (200, 1, 1)])
def test_growing_past_the_capacity_keeps_what_was_there(pieces):
    cache = new_cache()
    parts = [fill(cache, i, n) for i, n in enumerate(pieces)]
    k, v = (np.concatenate(side, axis=1) for side in zip(*parts, strict=True))
    check_holds(cache, k, v, what=f"a cache fed {pieces} tokens")
    sizes, one = {room_after(cache)}, np.zeros((1, KV_HEADS, D), np.float32)
    for _ in range(500 - sum(pieces)):
        cache.append(0, one, one)
        sizes.add(room_after(cache))
    assert len(sizes) < 10, (
        f"the arrays changed size {len(sizes)} times while {500 - sum(pieces)} tokens came one by one: "
        "each time all that was there is copied. Let reserve double them"
    )


def room_after(cache):
    return cache.k.shape[1]


@exercise("02.1", points=1, hint="Ask reserve before anything is written.")
def test_more_than_the_limit_is_refused_and_changes_nothing():
    with answers("the last token that fits, 5 of at most 5,", "Ask reserve for what is held afterwards: end, and not one more."):
        fill(new_cache(max_length=5), 1, 5)
    cache = new_cache(max_length=5)
    k, v = fill(cache, 1, 4)
    with pytest.raises(RequestError, match="holds 5 tokens, 6 were asked for"):
        cache.append(0, k[0, :2].copy(), v[0, :2].copy())
    lengths = cache.lengths
    assert lengths == [4, 4, 4], f"after an append that was refused lengths must be [4, 4, 4] as before, found {lengths}"
    check_holds(cache, k, v, what="a cache that refused")


# --- 02.2 -----------------------------------------------------------------------------------------------------------


@exercise(
    "02.2",
    points=1,
    hint=(
        "The arrays are longer than what is in them: which number says where this layer's tokens end?",
        "self.k is (layers, capacity, kv_heads, d_head): take one layer, and of that the first lengths[layer] rows.",
        "self.k[layer, : self.lengths[layer]], and the same of self.v: slices are views.",
    ),
)
@given(seed=seeds, n=st.integers(1, 12))
def test_read_gives_what_is_there_and_not_what_is_reserved(seed, n):
    cache = new_cache()
    k, v = fill(cache, seed, n)
    ways = {"layer 0 is read whichever is asked for": (k[[0] * LAYERS], v[[0] * LAYERS]), "K and V change places": (v, k)}
    check_holds(cache, k, v, mistakes=lambda: ways)


@exercise("02.2", points=1, hint="A slice of a NumPy array is a view; .copy() or a list of indices is not.")
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_reading_does_not_copy(dtype):
    cache = new_cache(dtype=dtype)
    fill(cache, 1, 3)
    for side, stored in zip(cache.read(1), (cache.k, cache.v), strict=True):
        view = np.shares_memory(side, stored)
        kept = f"read must return a view of a cache of {np.dtype(dtype)}, in its own type"
        assert view, f"{kept}: copying the cache is the traffic that decode waits for"


@exercise("02.2", points=1, hint="Within a step a layer reads the token it has just appended, before later layers hold it.")
def test_a_layer_reads_its_newest_token_at_once():
    cache, k = new_cache(), draws(1, (2, KV_HEADS, D))
    cache.append(0, k, k)
    found = cache.read(0)[0]
    assert len(found) == 2, f"layer 0 holds 2 tokens, the others none yet: read(0) must give 2 tokens, found {len(found)}"
    check_close(found, k, rtol=0, atol=0, what="K of a layer that is ahead of the others")


@exercise("02.2", points=0)
def test_an_empty_cache_reads_as_no_tokens():
    k, v = new_cache().read(0)
    assert k.shape == v.shape == (0, KV_HEADS, D), f"expected shape (0, {KV_HEADS}, {D}), found {k.shape} and {v.shape}"


# --- 02.3 -----------------------------------------------------------------------------------------------------------


def rows_copied(n):
    """Rows that new arrays took over from old ones while n tokens came one by one; and how often there were new ones."""
    cache, copied, grown = new_cache(max_length=5000), 0, 0
    for tokens in range(1, n + 1):
        before = room_after(cache)
        cache.reserve(tokens)
        room = room_after(cache)
        assert room >= tokens, f"reserve({tokens}) must make room for {tokens} tokens, found room for {room}"
        if room != before:
            copied, grown = copied + before, grown + 1
    return copied, grown


@exercise(
    "02.3",
    points=1,
    hint=(
        "Tokens come one by one, and each new array copies what is there: by what must it grow so that this stays rare?",
        "By a share of what it holds, not by a number of tokens: doubled, the copies add up to 64 + 128 + 256 + …, less than 2n.",
        "capacity = min(self.max_length, max(tokens, 2 * capacity, FIRST_CAPACITY)): tokens, for a prompt that is longer.",
    ),
)
@pytest.mark.parametrize("n", [65, 400])
def test_growing_copies_fewer_than_two_rows_a_token(n):
    copied, grown = rows_copied(n)
    assert copied < 2 * n, (
        f"{n} tokens came one by one: fewer than {2 * n} rows may be copied, found {copied:,}, in {grown} new arrays. "
        "Each new array copies all that is there: there may be few, each a multiple of the one before"
    )


@exercise("02.3", points=1, hint="Copy all that the old array has, not the first `length` rows: a layer may be ahead.")
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("held", "wanted"), [(3, 65), (60, 300), (64, 129)])
def test_new_arrays_hold_what_the_old_ones_held(held, wanted, dtype):
    cache = new_cache(dtype=dtype)
    k, v = fill(cache, held, held - 1)
    cache.append(0, k[0, :1].copy(), v[0, :1].copy())  # within a step: layer 0 is ahead
    cache.reserve(wanted)
    room, types = room_after(cache), {cache.k.dtype, cache.v.dtype}
    assert room >= wanted, f"reserve({wanted}) must make room for {wanted} tokens, found {room}: is one doubling enough?"
    assert types == {np.dtype(dtype)}, f"a cache of {np.dtype(dtype)} must stay one when it grows, found {types}"
    k, v = k.astype(dtype), v.astype(dtype)
    for side, found, right in (("K", cache.k, k), ("V", cache.v, v)):
        what = f"{side} of all layers after reserve({wanted})"
        check_close(found[:, : held - 1], right, rtol=0, atol=0, what=what)
        what = f"{side} of layer 0, which is a token ahead of the others, after reserve({wanted})"
        check_close(found[0, held - 1 : held], right[0, :1], rtol=0, atol=0, what=what)


@exercise("02.3", points=1, hint="Not beyond max_length, not far beyond what is asked for, not again where there is room.")
def test_room_is_neither_wasted_nor_made_twice():
    cache, was = new_cache(max_length=100), "a cache for at most 100 tokens"
    for tokens, least, most in ((1, 64, 64), (64, 64, 64), (65, 65, 100), (70, 70, 100), (100, 100, 100)):
        cache.reserve(tokens)
        room = room_after(cache)
        assert room <= 100, f"{was} after reserve({tokens}): room for {room}, more than it may ever hold"
        assert least <= room <= most, f"{was} after reserve({tokens}): room for {least} to {most} is expected, found {room}"
    cache = new_cache(max_length=4000)
    for tokens in (10, 20, 200, 130, 200, 7):
        cache.reserve(tokens)
    room = room_after(cache)
    assert 200 <= room <= 400, f"after reserve of 10, 20, 200, 130, 200, 7: room for 200 to 400 is expected, found {room}"


# --- truncate: no exercise ----------------------------------------------------------------------------------------------


def check_one_length_a_layer(cache, after):
    found = cache.lengths
    assert len(found) == LAYERS, f"after {after} lengths must hold one number for each of {LAYERS} layers, found {found}"


def test_truncate_to_3_keeps_the_first_3():
    cache = new_cache()
    k, v = fill(cache, 5, 8)
    cache.truncate(3)
    check_one_length_a_layer(cache, "truncate(3)")
    cause = {5: ": were 3 tokens dropped?", 4: ": one too many", 8: ": nothing was forgotten"}.get(cache.length, "")
    assert cache.length == 3, f"truncate(3) of a cache of 8 must leave 3 tokens, found {cache.length}{cause}"
    check_holds(cache, k[:, :3], v[:, :3], what="a cache of 8 truncated to 3")


@given(seed=seeds, n=st.integers(1, 12), ahead=st.integers(0, 2), data=st.data())
def test_truncate_forgets_the_end_in_every_layer(seed, n, ahead, data):
    cache = new_cache()
    k, v = fill(cache, seed, n)
    if ahead:  # a step was interrupted after layer 0
        cache.append(0, k[0, :1].repeat(ahead, 0), v[0, :1].repeat(ahead, 0))
    kept, room = data.draw(st.integers(0, n)), room_after(cache)
    cache.truncate(kept)
    check_one_length_a_layer(cache, f"truncate({kept})")
    assert cache.length == kept, f"length after truncate({kept}) of a cache of {n} must be {kept}, found {cache.length}"
    was = f" (layer 0 was {ahead} ahead)" * bool(ahead)
    check_holds(cache, k[:, :kept], v[:, :kept], what=f"a cache truncated from {n} to {kept}{was}")
    found = room_after(cache)
    assert found == room, f"truncate frees no memory: room for {room} tokens before, {found} after. A draft is rejected often"
    more_k, more_v = fill(cache, seed + 1, 2)
    check_holds(cache, np.concatenate([k[:, :kept], more_k], 1), np.concatenate([v[:, :kept], more_v], 1), what="and refilled")


def test_truncate_evens_out_layers_that_ran_ahead():
    cache = new_cache()
    k, v = fill(cache, 2, 3)
    cache.append(0, k[0, :1], v[0, :1])
    cache.truncate(cache.length)
    check_holds(cache, k, v, what="a cache after an interrupted step")


@pytest.mark.parametrize("length", [-1, 4])
def test_truncating_to_what_is_not_there_is_refused(length):
    cache = new_cache()
    k, v = fill(cache, 1, 3)
    with pytest.raises(RequestError, match="3 tokens"):
        cache.truncate(length)
    check_holds(cache, k, v)


# --- 02.4 -----------------------------------------------------------------------------------------------------------


@exercise(
    "02.4",
    points=2,
    hint=(
        "Both go on appending from here: what may they not have in common?",
        "Three things are written to: k, v and the list `lengths`. A second name for one of them is no copy.",
        "other = ContiguousCache(…) of the same sizes, limit and dtype; then other.k = self.k.copy(), and so on.",
    ),
)
@given(seed=seeds, n=st.integers(1, 9))
def test_after_a_fork_neither_sees_the_other(seed, n):
    cache = new_cache()
    k, v = fill(cache, seed, n)
    other = cache.fork()
    assert other is not cache, "fork must make a second cache, found the same one"
    assert other.lengths is not cache.lengths, "both have the same list as `lengths`: what one appends, the other counts too"
    check_holds(other, k, v, what="a fresh fork")
    a_k, a_v = fill(cache, seed + 1, 3)
    b_k, b_v = fill(other, seed + 2, 2)
    def both(x, a, b):  # b appended over a, by a cache whose array is the same one
        return np.concatenate([x, b, a[:, 2:]], 1)

    shared = {
        "what the fork appends lands in the original: both have the same array": (both(k, a_k, b_k), both(v, a_v, b_v)),
        "what the fork appends lands in the original: both have the same array of keys": (both(k, a_k, b_k), v),
        "what the fork appends lands in the original: both have the same array of values": (k, both(v, a_v, b_v)),
    }
    went_on = np.concatenate([k, a_k], 1), np.concatenate([v, a_v], 1)
    check_holds(cache, *went_on, what="the original after both went on", mistakes=lambda: shared)
    check_holds(other, np.concatenate([k, b_k], 1), np.concatenate([v, b_v], 1), what="the fork after both went on")


@exercise(
    "02.4", points=1, hint="All that the original was made with: max_length, dtype and ops too; and what single layers hold."
)
def test_a_fork_is_a_cache_of_the_same_kind():
    half = new_cache(dtype=np.float16)
    half.append(0, *draws(3, (2, KV_HEADS, D), (2, KV_HEADS, D)))  # within a step: layer 0 is ahead
    other = half.fork()
    assert other.lengths == [2, 0, 0], f"layer 0 of the original is ahead: lengths must be [2, 0, 0], found {other.lengths}"
    check_close(other.read(0)[0], half.read(0)[0], rtol=0, atol=0, what="K of the layer that is ahead, in the fork")
    other.reserve(room_after(half) + 1)
    found = other.read(0)[0].dtype
    assert found == np.float16, f"a fork of a float16 cache has grown and is {found}: give the new cache its dtype"
    other = new_cache(max_length=7).fork()
    assert (other.length, other.max_length) == (0, 7), f"expected an empty cache for 7 tokens, found {other}"
    k, v = fill(other, 1, 2)
    check_holds(other, k, v)
    asked = []  # shapes of the arrays that a backend was asked for

    def empty(shape, dtype=np.float32):
        asked.append(shape)
        return np.empty(shape, dtype)

    elsewhere = ContiguousCache(LAYERS, KV_HEADS, D, 500, np.float32, replace(ops_of(numpy_), empty=empty))
    other = elsewhere.fork()
    asked.clear()
    other.reserve(room_after(other) + 1)
    assert asked, (
        "a fork has grown, and the backend of its original was not asked for the new arrays: on a GPU they would now be NumPy's. "
        "Give the new cache the ops of this one"
    )


# --- 02.5 -----------------------------------------------------------------------------------------------------------


@exercise(
    "02.5",
    points=3,
    hint=(
        "With 6 query heads and 2 KV heads: which KV head does query head 2 read, and which query head 3?",
        "Query head h reads KV head h // group, with group = heads // kv_heads: reshape heads to (kv_heads, group).",
        "q.reshape(n_q, kv_heads, group, d).transpose(1, 2, 0, 3) against k.transpose(1, 0, 2)[:, None]: broadcasting repeats k.",
    ),
)
@given(seed=seeds, kv_heads=st.integers(1, 3), group=st.sampled_from([1, 2, 3]), n_q=st.integers(1, 4), cached=st.integers(0, 4))
def test_each_group_of_query_heads_reads_its_own_kv_head(seed, kv_heads, group, n_q, cached):
    q, k, v = draws(seed, (n_q, kv_heads * group, D), (n_q + cached, kv_heads, D), (n_q + cached, kv_heads, D))
    expected = oracles.attention(q, k, v)
    what = f"attention of {n_q} tokens with {kv_heads * group} query heads over {kv_heads} KV heads"
    given = q.copy(), k.copy(), v.copy()
    with answers(what, "Query head h reads KV head h // group; a group has heads // kv_heads of them."):
        found = attention(*given)
    for name, mine, before in zip("qkv", given, (q, k, v), strict=True):
        check_close(mine, before, rtol=0, atol=0, what=f"the caller's {name}, which attention has changed,")
    ways = {words: oracles.attention(x, k, v) for words, x in reshaped(q).items()}
    check_close(found, expected, what=what, mistakes=lambda: mistakes.attention(q, k, v) | ways, dtype=np.float32)


def reshaped(q):  # (n_q, heads, d) -> {words: what is taken for it}
    n_q, heads, d = q.shape
    words = "q is reshaped to (heads, n_q, d): that cuts it anew, and does not make its axes change places (transpose)"
    return {words: q.reshape(heads, n_q, d).transpose(1, 0, 2)}


@exercise("02.5", points=1, hint="Where all keys are hidden, a softmax by hand is 0/0: attention_head gives 0 there.")
@pytest.mark.parametrize("n_k", [1, 0])
def test_queries_that_see_no_key_get_zeros(n_k):
    q, k, v = draws(3, (3, 4, D), (n_k, 2, D), (n_k, 2, D))
    expected, what = oracles.attention(q, k, v), f"attention of 3 tokens over {n_k} keys"
    with answers(what, "Some queries see no key, and get 0: attention_head and softmax know that."):
        found = attention(q, k, v)
    check_close(found, expected, what=what)


@exercise("02.5", points=0, hint="All query heads share the one KV head.")
def test_multi_query_attention_is_the_case_of_one_kv_head():
    q, k, v = draws(1, (3, 9, 8), (5, 1, 8), (5, 1, 8))
    expected = oracles.attention(q, k, v)
    check_close(attention(q, k, v), expected, what="attention of 9 query heads over 1 KV head")


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        (((2, 4, 8), (2, 3, 8), (2, 3, 8)), "4 query heads cannot share 3"),
        (((2, 4, 8), (2, 2, 8), (3, 2, 8)), "(2, 2, 8)"),
        (((2, 4, 8), (2, 2, 6), (2, 2, 6)), "(2, 4, 8), k (2, 2, 6)"),
    ],
)
def test_shapes_that_disagree_are_refused_with_both(shapes, says):
    with pytest.raises(MiniLLMError) as error:
        attention(*(np.zeros(s, np.float32) for s in shapes))
    assert says in str(error.value)


# --- 02.6 -----------------------------------------------------------------------------------------------------------

NARROW = replace(preset("llama-3-8b"), name="32 heads of 64 in 4096", d_head=64)
MATRICES = {  # weights in products and values of K and V a token, from the published shapes by hand
    "llama-2-7b": (6_607_077_376, 2 * 32 * 32 * 128),
    "llama-3-8b": (7_504_658_432, 2 * 32 * 8 * 128),
    "smollm2-135m": (134_479_872, 2 * 30 * 3 * 64),  # tied: the table is the head, and read whole
    "narrow": (6_833_569_792, 2 * 32 * 8 * 64),
}


def check_step(name, context, batch, bits, width, shared=0):
    config = NARROW if name == "narrow" else replace(preset(name), name=name)
    matrices, values = MATRICES[name]
    weights, token = matrices * bits / 8, values * width
    tokens, group = shared + batch * (context - shared), config.n_heads // config.n_kv_heads
    head = config.vocab_size * config.d_model
    table = 0 if config.tied else head
    ways = {
        "weights are read once for each sequence: a batch shares them": batch * weights + tokens * token,
        "one sequence's cache is counted: each has its own": weights + (shared + context - shared) * token,
        "the cache is left out": weights,
        "the shared prefix is read by every sequence: it is read once": weights + batch * context * token,
        "the shared prefix is not read at all: once it must be": weights + batch * (context - shared) * token,
        "the prefix is taken off once: each of the batch does without reading it, and it is read once": (
            weights + (batch * context - shared) * token
        ),
        "the embedding table is read whole: where it is not the head, a step looks up a row of it": (
            weights + table * bits / 8 + tokens * token
        ),
        "norms and the embedding table are counted: parameters() has all": config.weight_bytes(bits) + tokens * token,
        "the head is left out: a tied table is read whole, as the head": weights - head * bits / 8 + tokens * token,
        "query heads are counted: the cache holds KV heads": weights + tokens * token * group,
        "d_head is taken for d_model / n_heads: it is a number of its own": (
            weights + tokens * token / config.d_head * (config.d_model // config.n_heads)
        ),
        "one layer's cache is counted": weights + tokens * token / config.n_layers,
        "K is counted and V is not": weights + tokens * token / 2,
        "the width of cached values is not looked at (2 bytes)": weights + tokens * values * 2,
        "cached values are taken to be as wide as weights": weights + tokens * values * bits / 8,
        "bits are taken for bytes: 8 of them make one": 8 * weights + tokens * token,
        "weights are taken to have 16 bits": 2 * matrices + tokens * token,
    }
    more = f", shared={shared}" if shared else ""
    what = f"decode_bytes({context}, {batch}, {bits}, {width}{more}) of {config.name}"
    found = config.decode_bytes(context, batch, bits, width, **({"shared": shared} if shared else {}))
    check_close(float(found), float(weights + tokens * token), rtol=1e-12, what=what, mistakes=lambda: ways)


@exercise(
    "02.6",
    points=2,
    hint=(
        "Of a batch of 32: what does the step read once for all of them, and what 32 times?",
        "matrix_parameters() is read once; kv_bytes_per_token(width) is read for each token of each context.",
        "matrix_parameters() * bits_per_weight / 8 + batch * context * kv_bytes_per_token(bytes_per_value), without a prefix.",
    ),
)
@pytest.mark.parametrize(
    ("name", "context", "batch", "bits", "width"),
    [
        ("llama-3-8b", 1000, 1, 16, 2),
        ("llama-3-8b", 1200, 32, 16, 2),
        ("llama-3-8b", 1200, 7, 4.5, 1),
        ("llama-2-7b", 4096, 3, 8, 2),
        ("smollm2-135m", 300, 5, 16, 4),
        ("narrow", 999, 2, 16, 0.5),
        ("llama-3-8b", 0, 9, 16, 2),
    ],
)
def test_a_step_reads_the_weights_once_and_each_cache(name, context, batch, bits, width):
    check_step(name, context, batch, bits, width)


@exercise("02.6", points=1, hint="The prefix is in every context: count it once, and of each context what comes after it.")
@pytest.mark.parametrize(
    ("name", "context", "batch", "bits", "width", "shared"),
    [("llama-3-8b", 1200, 32, 16, 2, 1000), ("smollm2-135m", 70, 3, 4.5, 4, 70), ("llama-2-7b", 513, 2, 16, 1, 1)],
)
def test_a_shared_prefix_is_read_once_where_the_kernel_can(name, context, batch, bits, width, shared):
    check_step(name, context, batch, bits, width, shared)


# --- bytes per token: no exercise ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "width", "expected"),
    [
        ("llama-2-7b", 2, 512 * 1024),
        ("llama-3-8b", 2, 128 * 1024),
        ("llama-2-70b", 2, 320 * 1024),
        ("smollm2-135m", 2, 23_040),
        ("smollm2-135m", 4, 46_080),
        ("qwen2-7b", 2, 56 * 1024),
        ("llama-3-8b", 0.5, 32 * 1024),
        (NARROW, 2, 64 * 1024),
    ],
)
def test_bytes_per_token_of_published_models(name, width, expected):
    config = replace(preset(name), name=name) if isinstance(name, str) else name
    what = f"kv_bytes_per_token({width}) of {config.name}"
    ways = {
        "the width of a value is not looked at (2 bytes)": expected / width * 2,
        "query heads are counted: the cache holds KV heads": expected * config.n_heads / config.n_kv_heads,
        "d_head is taken for d_model / n_heads: it is a number of its own": (
            expected / config.d_head * (config.d_model // config.n_heads)
        ),
        "one layer is counted": expected / config.n_layers,
        "K is counted and V is not": expected / 2,
        "values are counted, not bytes": expected / width,
    }
    check_close(float(config.kv_bytes_per_token(width)), float(expected), rtol=1e-12, what=what, mistakes=lambda: ways)


def test_the_formula_is_what_a_cache_really_takes():
    config = preset("smollm2-135m")
    cache = ContiguousCache(config.n_layers, config.n_kv_heads, config.d_head, 100)
    cache.reserve(100)
    assert cache.nbytes == 100 * config.kv_bytes_per_token(bytes_per_value=4)


def test_appending_one_by_one_copies_each_row_at_most_twice():
    """Growth by doubling: counted in rows, not in seconds."""
    cache, copied, capacity, n = new_cache(max_length=5000), 0, 0, 3000
    row = np.zeros((1, KV_HEADS, D), np.float32)
    for _ in range(n):
        for layer in range(LAYERS):
            cache.append(layer, row, row)
        if cache.k.shape[1] != capacity:
            copied, capacity = copied + capacity, cache.k.shape[1]
    assert copied < 2 * n and capacity < 2 * n + 64
