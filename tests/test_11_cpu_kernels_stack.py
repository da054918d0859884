"""All layers of a decode step in one call: the same bits as layer by layer, whatever the types, the batch, the cache."""

from dataclasses import replace

import gguf
import numpy as np
import pytest
from test_11_cpu_kernels_model import SMALL

from minillm.backends import get_backend
from minillm.backends.numba_ import stack
from minillm.backends.numba_.crossover import SHORT
from minillm.backends.numba_.decode import split_keys
from minillm.backends.numba_.team import set_threads
from minillm.cache.paged import PageStore
from minillm.errors import MiniLLMError
from minillm.formats.blocks import BLOCK_TYPES
from minillm.memory import keep_freed_memory
from minillm.model.random_model import random_tensor, tensor_shapes
from minillm.model.transformer import Segment, Transformer
from minillm.model.weights import StoredTensor, load_weights

MIX = {"attn_q": "Q4_1", "attn_v": "Q5_0", "ffn_down": "Q8_0", "blk.1.ffn_up": "Q4_0"}  # others Q4_0; layers differ


def packed(config, dtype=np.float32, types=MIX):
    """A model whose matrices are of several packed types."""

    def tensor(name):
        if name not in (shapes := tensor_shapes(config)):
            return None
        values, kind = random_tensor(name, shapes[name], seed=1), "F32"
        if values.ndim == 2:
            kind = next((t for part, t in types.items() if part in name), "Q4_0")
            values = values.astype(np.float16) if kind == "F16" else values
            values = gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind]) if kind[0] == "Q" else values
        return StoredTensor(values.view(np.uint8).reshape(-1), BLOCK_TYPES[kind], shapes[name])

    ops = get_backend("numba")
    return Transformer(config, load_weights(config, tensor, ops), ops, np.dtype(dtype).name)


CONFIG = SMALL.__class__(**{f: getattr(SMALL, f) for f in SMALL.__dataclass_fields__} | {"d_model": 96, "n_heads": 6})


def decoded(model, lengths, caches, steps=3):
    """Logits of some decode steps after prompts of such lengths."""
    rng = np.random.default_rng(5)
    for n, cache in zip(lengths, caches, strict=True):
        model.forward([Segment(rng.integers(0, 300, n), 0, cache)])
    found = []
    for step in range(steps):
        found += model.forward([Segment([step + 7 * i], c.length, c) for i, c in enumerate(caches)])
    return np.array(found)


def layer_by_layer(model):
    """The same model, to which run_layers is the plain loop."""
    model.weights.layers = list(model.weights.layers)
    return model


@pytest.fixture
def calls(monkeypatch):
    """How often the kernel that does all layers was called."""
    seen, kernel = [], stack.decode
    monkeypatch.setattr(stack, "decode", lambda *args: seen.append(len(args[2])) or kernel(*args))
    return seen


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("lengths", [[1], [70], [3, 64, 1, 65], [5] * 4 + [60] * 5])
def test_one_call_gives_the_bits_of_the_separate_calls(dtype, lengths, calls, two_threads):
    model = packed(CONFIG, dtype)
    one = decoded(model, lengths, [model.new_cache() for _ in lengths])
    short = [n for n in lengths if n <= SHORT]
    assert calls == short + [len(lengths)] * 3, "short prompts are one call too"
    calls.clear()
    each = decoded(layer_by_layer(model), lengths, [model.new_cache() for _ in lengths])
    assert not calls and np.array_equal(one, each)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_pages_and_one_thread_give_the_bits_of_a_contiguous_cache_and_two(dtype, two_threads):
    model, lengths = packed(CONFIG, dtype), [9, 33, 2]
    one = decoded(model, lengths, [model.new_cache() for _ in lengths])
    for size in (1, 16):
        store = PageStore.for_model(CONFIG, 80, size, dtype=dtype)
        assert np.array_equal(decoded(model, lengths, [store.new_cache() for _ in lengths]), one)
    set_threads(1)
    assert np.array_equal(decoded(model, lengths, [model.new_cache() for _ in lengths]), one)


def test_a_sequence_gets_the_same_bits_alone_and_in_a_batch(two_threads):
    model = packed(CONFIG, np.float16)
    together = decoded(model, [9, 70, 2], [model.new_cache() for _ in range(3)]).reshape(3, 3, -1)
    cache = model.new_cache()
    model.forward([Segment(np.random.default_rng(5).integers(0, 300, 9), 0, cache)])
    alone = [model.forward([Segment([step], cache.length, cache)])[0] for step in range(3)]
    assert np.array_equal(np.array(alone).reshape(3, -1), together[:, 0])


def by(model, cache, tokens, width):
    """Logits after each of some tokens, so many a step."""
    found = []
    for i in range(0, len(tokens), width):
        found += list(model.forward([Segment(tokens[i : i + width], cache.length, cache, "all")])[0])
    return np.array(found)


@pytest.mark.parametrize("width", range(2, SHORT + 1))
@pytest.mark.parametrize("kinds", [MIX, {"attn_v": "F16", "ffn": "F32"}], ids=["packed", "mixed"])
def test_several_tokens_of_a_sequence_get_the_bits_of_one_at_a_time(width, kinds, calls, two_threads):
    """Drafts to verify, short chunks: in any cache, at the edges of blocks and splits, whole steps and what is left."""
    rng = np.random.default_rng(width)
    for dtype in (np.float32, np.float16):
        model = packed(CONFIG, dtype, kinds)
        store = PageStore.for_model(CONFIG, 300, 16, dtype=dtype)
        text, tokens = rng.integers(0, 300, 57), rng.integers(0, 300, 2 * width + 1)
        caches = [model.new_cache(), model.new_cache(), store.new_cache()]
        for cache in caches:
            model.forward([Segment(text, 0, cache)])
        calls.clear()
        one, *several = (by(model, cache, tokens, w) for cache, w in zip(caches, (1, width, width), strict=True))
        assert calls == [1] * (2 * width + 1) + [width, width, 1] * 2, "each step is one call"
        for found in several:
            assert np.array_equal(found, one)
        assert all(np.array_equal(a, b) for a, b in zip(caches[0].read(1), caches[1].read(1), strict=True))


def test_where_the_keys_are_cut_at_other_places_the_bits_are_those_of_one_at_a_time(two_threads):
    """From 4,065 keys on a split has 128: rows before and after are groups of their own."""
    config = replace(CONFIG, context_length=4200)
    model = packed(config, np.float16)
    cache, rng = model.new_cache(), np.random.default_rng(1)
    model.forward([Segment(rng.integers(0, 300, 4061), 0, cache)])
    tokens = rng.integers(0, 300, 9)
    one, other = by(model, cache.fork(), tokens, 1), cache.fork()
    assert split_keys(4062) != split_keys(4070)
    assert np.array_equal(by(model, other, tokens, 9), one)


def test_a_short_segment_in_a_step_with_a_long_one_gets_its_own_bits(two_threads):
    model, rng = packed(CONFIG, np.float16), np.random.default_rng(2)
    text, tokens, long = rng.integers(0, 300, 40), rng.integers(0, 300, 5), rng.integers(0, 300, 33)
    alone, beside, other = (model.new_cache() for _ in range(3))
    for cache in (alone, beside):
        model.forward([Segment(text, 0, cache)])
    one = by(model, alone, tokens, 5)
    found = model.forward([Segment(long, 0, other), Segment(tokens, 40, beside, "all")])
    assert np.array_equal(found[1], one)
    assert np.array_equal(found[0], model.forward([Segment(long, 0, model.new_cache())])[0])


def test_a_16_bit_cache_holds_what_rounding_leaves_and_is_half_as_large():
    model = packed(CONFIG, np.float16)
    cache, full = model.new_cache(8), Transformer(CONFIG, model.weights, model.ops).new_cache(8)
    assert cache.k.dtype == np.float16 and 2 * cache.nbytes == full.nbytes and cache.fork().k.dtype == np.float16
    for held in (cache, full):
        model.forward([Segment([3, 1, 4], 0, held)])
        model.forward([Segment([1], 3, held)])
    first = full.read(0)[0].astype(np.float16)
    assert np.array_equal(cache.read(0)[0], first), "the first layer's keys depend on no cache: exactly the rounded ones"
    assert np.abs(cache.read(1)[1] - full.read(1)[1]).max() < 5e-3 * np.abs(full.read(1)[1]).max()


def test_a_model_with_more_between_the_products_goes_layer_by_layer(calls):
    for shape in (replace(CONFIG, qkv_bias=True), replace(CONFIG, qk_norm=True)):
        model = packed(shape)
        decoded(model, [3], [model.new_cache()], steps=1)
    assert not calls


def test_a_nan_is_refused_and_the_caches_have_not_grown():
    model = packed(CONFIG)
    cache = model.new_cache()
    model.forward([Segment([1, 2], 0, cache)])
    model.weights.layers[1].attn_norm[:] = np.nan
    model.weights.layers.__dict__.pop("norms", None)
    with pytest.raises(MiniLLMError, match="not finite"):
        model.forward([Segment([3], 2, cache)])
    assert cache.lengths == [2, 2]


TAKES_AND_FREES = """
import resource, sys
import numpy as np
if sys.argv[1] == "kept":
    import minillm.backends.numba_
def layer():
    for array in [np.empty(800_000, np.float32) for _ in range(4)]:
        array[::1024] = 1
for _ in range(3):
    layer()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    layer()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not keep_freed_memory(), reason="the C library is not glibc: there is no mallopt to ask")
def test_what_a_layer_frees_the_next_one_gets_without_asking_the_system():
    """Page faults, counted: ten layers that take 12.8 MB each are 31,250 pages of 4 KB, or none at all."""
    import subprocess
    import sys

    run = [sys.executable, "-c", TAKES_AND_FREES]
    kept = int(subprocess.run([*run, "kept"], capture_output=True, text=True, check=True).stdout)
    assert kept < 1000, f"{kept:,} page faults"
