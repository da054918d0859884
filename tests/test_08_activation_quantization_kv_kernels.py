"""Kernels over rows of quantized keys and values: the reference's bytes, the reference's attention, one call a step."""

from dataclasses import replace

import numpy as np
import pytest
from test_11_cpu_kernels_stack import CONFIG, by, calls, decoded, layer_by_layer, packed  # noqa: F401

from minillm.backends import get_backend
from minillm.backends.invariant import invariant_model
from minillm.backends.numba_.crossover import SHORT
from minillm.cache import kinds
from minillm.errors import MiniLLMError
from minillm.model.transformer import Segment
from minillm.quantization.kv_formats import FORMATS

ops, reference = get_backend("numba"), get_backend("numpy")
KERNELS = sorted(FORMATS)
SHAPES = [  # one query, drafts, a prompt; heads that fill registers with codes and heads that do not
    (1, 300, 9, 3, 64), (1, 37, 4, 4, 32), (2, 1000, 6, 2, 16), (1, 100, 8, 1, 128), (1, 33, 2, 1, 80), (5, 65, 3, 3, 64),
    (33, 150, 9, 3, 64), (40, 90, 6, 2, 16), (50, 50, 3, 1, 24),
]  # fmt: skip


def draws(seed, n_q, n_k, heads, kv_heads, d):
    rng = np.random.default_rng(seed)
    q = rng.standard_normal((n_q, heads, d), np.float32)
    return q, *(2 * rng.standard_normal((n_k, kv_heads, d), np.float32) for _ in "kv")


def fits(made, d):
    return not (made.rotated and d & (d - 1))


@pytest.mark.parametrize("d", [16, 32, 48, 64, 80, 128])
@pytest.mark.parametrize("name", KERNELS)
def test_the_bytes_are_those_of_the_reference(name, d):
    made, rng = FORMATS[name], np.random.default_rng(d)
    if not fits(made, d):
        return
    x = rng.standard_normal((40, 3, d), np.float32) * np.exp(rng.uniform(-20, 9, (40, 3, 1))).astype(np.float32)
    x[0], x[1, 0], x[1, 1], x[2, 0, 0] = 0, -0.0, 1, 1e-9
    x[3] = np.rint(4 * x[3]) / 2  # numbers between two codes
    assert np.array_equal(ops.encode_kv(x, made), made.encode(x))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e38])
@pytest.mark.parametrize("name", KERNELS)
def test_what_no_row_can_hold_is_refused_as_the_reference_does(name, bad):
    x = np.ones((3, 2, 16), np.float32)
    x[1, 1, 3] = bad
    with pytest.raises(MiniLLMError) as theirs, np.errstate(all="ignore"):
        FORMATS[name].encode(x)
    with pytest.raises(MiniLLMError) as ours, np.errstate(all="ignore"):
        ops.encode_kv(x, FORMATS[name])
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", KERNELS)
def test_attention_is_that_of_the_decoded_rows_and_pages_give_the_same_bits(name, shape):
    made = FORMATS[name]
    if not fits(made, shape[-1]):
        return
    q, *kv = draws(1, *shape)
    rows, n_k = [made.encode(x) for x in kv], shape[1]
    expected = made.rotate(reference.attention(made.rotate(q), *(made.decode(x) for x in rows)))
    found = ops.quantized_attention(q, *(x[None] for x in rows), [0], n_k, made)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)
    for size in (1, 16, 64):
        table = np.random.default_rng(size).permutation(-(-n_k // size) + 3)[: -(-n_k // size)]
        pages = [np.full((len(table) + 3, size, *x.shape[1:]), 255, np.uint8) for x in rows]  # elsewhere: NaN
        for to, x in zip(pages, rows, strict=True):
            for i, block in enumerate(table):
                to[block, : len(x[i * size : (i + 1) * size])] = x[i * size : (i + 1) * size]
        assert np.array_equal(ops.quantized_attention(q, *pages, table, n_k, made), found)


def test_shapes_that_do_not_belong_together_are_refused():
    q, made = np.ones((1, 2, 64), np.float32), FORMATS["int8"]
    pages = np.zeros((2, 16, 1, 65), np.uint8)
    with pytest.raises(MiniLLMError, match="int8 keeps 64 numbers in 66 bytes"):
        ops.quantized_attention(q, pages, pages, [0], 3, made)
    pages = np.zeros((2, 16, 1, 66), np.uint8)
    with pytest.raises(MiniLLMError, match="there are 0 to 1"):
        ops.quantized_attention(q, pages, pages, [7], 3, made)


# --- steps --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KERNELS)
def test_a_step_is_one_call_and_stores_the_references_bytes(name, calls, two_threads):  # noqa: F811
    model = packed(CONFIG, "float32").with_kv(name)
    lengths = [70, 3, 64, 1, 65]
    caches = [model.new_cache() for _ in lengths]
    one = decoded(model, lengths, caches)
    assert calls[-3:] == [len(lengths)] * 3
    store = kinds.new_store(CONFIG, name, 80, 16, model.ops)
    assert np.array_equal(decoded(model, lengths, [store.new_cache() for _ in lengths]), one), "pages"
    calls.clear()
    each = decoded(layer_by_layer(model), lengths, [model.new_cache() for _ in lengths])
    assert not calls and np.array_equal(one, each), "layer by layer"
    plain = packed(CONFIG, "float32").with_kv(name)
    plain.ops = replace(plain.ops, kv_formats=(), quantized_attention=None)
    slow = [plain.new_cache() for _ in lengths]
    np.testing.assert_allclose(one, decoded(layer_by_layer(plain), lengths, slow), atol=2e-2 * np.abs(one).max())
    made = caches[0].format
    for x in (caches[0].rows.k, caches[0].rows.v):
        width = made.width(CONFIG.d_head)
        assert x.shape[-1] == width and x.dtype == np.uint8


@pytest.mark.parametrize("width", [2, 5, SHORT])
@pytest.mark.parametrize("name", KERNELS)
def test_several_tokens_of_a_sequence_get_the_bits_of_one_at_a_time(name, width, calls, two_threads):  # noqa: F811
    model, rng = packed(CONFIG, "float32").with_kv(name), np.random.default_rng(width)
    text, tokens = rng.integers(0, 300, 57), rng.integers(0, 300, 2 * width + 1)
    caches = [model.new_cache(), model.new_cache(), kinds.new_store(CONFIG, name, 80, 16, model.ops).new_cache()]
    for cache in caches:
        model.forward([Segment(text, 0, cache)])
    calls.clear()
    one, *several = (by(model, cache, tokens, w) for cache, w in zip(caches, (1, width, width), strict=True))
    assert calls == [1] * (2 * width + 1) + [width, width, 1] * 2
    for found in several:
        assert np.array_equal(found, one)
    assert np.array_equal(caches[0].rows.k[:, : len(text)], caches[1].rows.k[:, : len(text)])


def test_numbers_that_no_row_can_hold_are_refused_by_a_step(two_threads):
    model = packed(CONFIG, "float32").with_kv("int8")
    cache = model.new_cache()
    model.forward([Segment([1, 2, 3], 0, cache)])
    model.weights.layers[0].attn_norm[:] = np.nan
    model.weights.layers.__dict__.pop("norms", None)
    with pytest.raises(MiniLLMError, match="int8"):
        model.forward([Segment([4], 3, cache)])


@pytest.mark.parametrize("name", ["int8", "rot4"])
def test_batch_invariant_mode_gives_the_same_bits_whole_and_in_chunks(name):
    model = invariant_model(packed(CONFIG, "float32").with_kv(name))
    ids, found, cache = np.random.default_rng(0).integers(0, 300, 70), [], model.new_cache()
    whole = model.forward([Segment(ids, 0, model.new_cache(), "all")])[0]
    for a, b in ((0, 1), (1, 31), (31, 33), (33, 70)):
        found.append(model.forward([Segment(ids[a:b], a, cache, "all")])[0])
    assert np.array_equal(np.concatenate(found), whole)
