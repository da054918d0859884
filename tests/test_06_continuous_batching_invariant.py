"""Batch-invariant mode: the same bits alone, among any neighbours, and in any pieces. Equal means equal, not close."""

from dataclasses import replace

import numpy as np
import pytest
from engine_help import SMALL, engine, greedy, said
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm import LLM, layers
from minillm.attention.naive import attention as naive
from minillm.attention.paged import paged_attention as naive_paged
from minillm.backends import get_backend
from minillm.backends.invariant import invariant_model, invariant_ops
from minillm.backends.step import AttentionStep
from minillm.bench.serving import overhead, slowdown
from minillm.cache.paged import PageStore
from minillm.errors import MiniLLMError
from minillm.formats.blocks import BLOCK_TYPES
from minillm.model.random_model import random_model
from minillm.model.transformer import Segment
from minillm.model.weights import StoredTensor

SHAPES = {
    "gqa": SMALL,
    "mqa": replace(SMALL, n_heads=5, n_kv_heads=1, d_head=32),
    "mha, bias, qk norm": replace(SMALL, n_heads=3, n_kv_heads=3, d_head=48, qkv_bias=True, qk_norm=True, d_ff=100),
    "odd heads": replace(SMALL, n_heads=4, n_kv_heads=2, d_head=24, tied=False),
}
MODELS = {}
LENGTH = 100


def model(backend, shape):
    """A transformer of this shape with invariant operations; and with the fast ones."""
    key = backend, shape
    if key not in MODELS:
        fast = random_model(SHAPES[shape], backend=backend)[0]
        MODELS[key] = invariant_model(fast), fast
    return MODELS[key]


def ids(seed, n=LENGTH):
    return np.random.default_rng(seed).integers(0, 512, n).tolist()


def whole(transformer, tokens):
    return transformer.forward([Segment(tokens, 0, transformer.new_cache(), "all")])[0]


def in_chunks(transformer, tokens, size, cache=None):
    cache = transformer.new_cache() if cache is None else cache
    steps = [Segment(tokens[a : a + size], a, cache, "all") for a in range(0, len(tokens), size)]
    return np.concatenate([transformer.forward([segment])[0] for segment in steps])


def among(transformer, tokens, batch, seed, pages=None):
    """In pieces of chance, at a place of chance among batch - 1 neighbours who decode, or compute a prompt, of any length."""
    rng = np.random.default_rng(seed)
    store = PageStore.for_model(transformer.config, batch * 130 // (pages or 1) + batch, pages) if pages else None
    new = store.new_cache if store else transformer.new_cache
    neighbours, mine, out = [new() for _ in range(batch - 1)], new(), []
    while mine.length < len(tokens):
        step = []
        for cache in neighbours:
            n = min(int(rng.choice([1, 1, 1, 2, 7, 30])), 128 - cache.length)
            if n == 0:
                cache.truncate(0)
                n = 1
            step.append(Segment(rng.integers(0, 512, n).tolist(), cache.length, cache, str(rng.choice(["all", "last", "none"]))))
        at, n = int(rng.integers(0, batch)), int(rng.choice([1, 1, 2, 5, 17, 40]))
        step.insert(at, Segment(tokens[mine.length : mine.length + n], mine.length, mine, "all"))
        out.append(transformer.forward(step)[at])
    return np.concatenate(out)


MODES = pytest.mark.parametrize("backend", ["numpy", "numba"])
EVERY_SHAPE = pytest.mark.parametrize("shape", SHAPES)


@MODES
@EVERY_SHAPE
def test_chunks_of_any_size_give_the_same_bits(backend, shape):
    transformer, _ = model(backend, shape)
    expected = whole(transformer, ids(1))
    for size in (1, 16, 7, 64, 512):
        assert np.array_equal(in_chunks(transformer, ids(1), size), expected), size


@MODES
@EVERY_SHAPE
@pytest.mark.parametrize("batch", [2, 3, 8, 32])
def test_any_neighbours_leave_the_bits_alone(backend, shape, batch):
    transformer, _ = model(backend, shape)
    tokens = ids(2, 60)
    assert np.array_equal(among(transformer, tokens, batch, seed=batch), whole(transformer, tokens))


@MODES
@pytest.mark.parametrize("size", [1, 8, 16, 64])
def test_pages_of_any_size_give_the_same_bits(backend, size):
    transformer, _ = model(backend, "gqa")
    tokens = ids(3, 60)
    assert np.array_equal(among(transformer, tokens, 4, seed=size, pages=size), whole(transformer, tokens))


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["numpy", "numba"]), st.sampled_from(list(SHAPES)), st.integers(2, 32), st.integers(0, 10**6))
def test_whatever_chance_puts_beside_it(backend, shape, batch, seed):
    transformer, _ = model(backend, shape)
    tokens = ids(seed, 30)
    assert np.array_equal(among(transformer, tokens, batch, seed, pages=4 if seed % 2 else None), whole(transformer, tokens))


@MODES
def test_the_fast_operations_are_not_invariant_or_the_tests_above_show_nothing(backend):
    _, fast = model(backend, "gqa")
    assert not np.array_equal(in_chunks(fast, ids(1), 1), whole(fast, ids(1)))


@MODES
@EVERY_SHAPE
def test_they_compute_the_same_model(backend, shape):
    transformer, fast = model(backend, shape)
    expected = whole(fast, ids(4))
    np.testing.assert_allclose(whole(transformer, ids(4)), expected, atol=3e-5 * np.abs(expected).max())


@MODES
def test_a_cache_may_have_more_blocks_than_are_filled(backend):
    ops, rng = invariant_ops(get_backend(backend)), np.random.default_rng(0)
    q, k, v = rng.normal(size=(3, 4, 16)), rng.normal(size=(5, 8, 2, 16)), rng.normal(size=(5, 8, 2, 16))
    q, k, v = (x.astype(np.float32) for x in (q, k, v))
    k[4], v[4] = np.nan, np.nan
    table = [3, 0, 2, 4]
    rows = [a[[3, 0, 2]].reshape(-1, 2, 16)[:19] for a in (k, v)]
    out = ops.paged_attention(q, k, v, table, 19)
    assert np.array_equal(out, ops.attention(q, *rows))
    np.testing.assert_allclose(out, naive(q, *rows), atol=1e-5)
    np.testing.assert_allclose(out, naive_paged(q, k, v, table, 19), atol=1e-5)


@MODES
def test_odd_cases_of_attention(backend):
    ops, rng = invariant_ops(get_backend(backend)), np.random.default_rng(0)
    q, k = rng.normal(size=(4, 2, 16)).astype(np.float32), rng.normal(size=(3, 1, 16)).astype(np.float32)
    out = ops.attention(q, k, k)
    assert (out[0] == 0).all(), "before all keys"
    np.testing.assert_allclose(out, naive(q, k, k), atol=1e-5)
    assert (ops.attention(q, k[:0], k[:0]) == 0).all()
    with pytest.raises(MiniLLMError, match="nan"):
        ops.attention(q, np.where(np.arange(16) == 3, np.float32(np.nan), k), k)
    with pytest.raises(MiniLLMError, match="shape"):
        ops.attention(q, k, k[:, :, :8])
    with pytest.raises(MiniLLMError, match="cannot hold"):
        ops.paged_attention(q, k[None], k[None], [0], 9)
    with pytest.raises(MiniLLMError, match="blocks"):
        ops.paged_attention(q[:1], k[None], k[None], [5], 2)


def test_half_precision_pages_are_read_as_what_they_hold():
    rng = np.random.default_rng(0)
    q = rng.normal(size=(2, 4, 16)).astype(np.float32)
    pages = rng.normal(size=(3, 8, 2, 16)).astype(np.float16)
    for backend in ("numpy", "numba"):
        ops = invariant_ops(get_backend(backend))
        wide = ops.paged_attention(q, pages.astype(np.float32), pages.astype(np.float32), [2, 0], 11)
        assert np.array_equal(ops.paged_attention(q, pages, pages, [2, 0], 11), wide)


@MODES
def test_everything_else_is_the_backends_own(backend):
    ops = get_backend(backend)
    ours = invariant_ops(ops)
    assert ours.embed is ops.embed and ours.load_matrix is ops.load_matrix and ours.rope_angles is ops.rope_angles
    assert ours.AttentionStep is AttentionStep, "the plain loop: a faster one may take sequences together"
    assert ours is not ops and ops is get_backend(backend) and ops.attention is not ours.attention, "and it is as it was"


def test_a_backend_says_itself_whether_it_has_this_mode():
    with pytest.raises(MiniLLMError, match="the plain backend has no batch-invariant operations"):
        invariant_ops(replace(get_backend("numpy"), name="plain", invariant=None))


def test_an_operation_for_all_layers_at_once_is_the_loop_over_our_own():
    """Backends may come to run all layers of a step in one call; here it must be these operations, one after the other."""
    transformer, _ = model("numba", "gqa")
    tokens = ids(5, 20)

    def forward(step_size):
        cache, rows = transformer.new_cache(), []
        for a in range(0, 20, step_size):
            segment = Segment(tokens[a : a + step_size], a, cache, "all")
            spans, positions = [slice(0, len(segment.tokens))], np.arange(a, a + len(segment.tokens))
            ops, weights = transformer.ops, transformer.weights
            step, angles = ops.AttentionStep(ops, [segment], spans), ops.rope_angles(positions, transformer.frequencies)
            x = ops.embed(np.asarray(segment.tokens), weights.embedding)
            x = ops.run_layers(x, weights.layers, transformer.config, angles, step)
            rows += transformer.head(x, [segment], spans)
        return np.concatenate(rows)

    assert np.array_equal(forward(20), forward(1)) and np.array_equal(forward(20), whole(transformer, tokens))


def test_linear_over_every_kind_of_packed_weight_looks_at_each_row_alone():
    """The compiled linear is called on all rows at once: exact integers within a block of 32, blocks added in one order."""
    from kernel_help import PACKED

    ops, rng = invariant_ops(get_backend("numba")), np.random.default_rng(0)
    x = rng.normal(size=(37, 256)).astype(np.float32)
    for kind in map(BLOCK_TYPES.get, (*PACKED, "F16", "F32")):
        if kind.plain:
            dtype = {"F16": np.float16, "F32": np.float32}[kind.name]
            raw = rng.normal(size=(70, 256)).astype(dtype).view(np.uint8).reshape(-1)
        else:
            raw = rng.integers(0, 60, 70 * 256 // kind.weights * kind.bytes, dtype=np.uint8)  # no scale is infinite or NaN
        weight = ops.load_matrix(StoredTensor(raw, kind, (70, 256)))
        together = ops.linear(x, weight)
        assert np.isfinite(together).all() and len(np.unique(together)) > 1000
        for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 23):
            assert np.array_equal(ops.linear(x[:n], weight), together[:n]), (kind.name, n)
        assert np.array_equal(np.concatenate([ops.linear(x[i : i + 1], weight) for i in range(37)]), together), kind.name


# --- in the engine ------------------------------------------------------------------------------------------------------------


@MODES
def test_an_engine_in_this_mode_gives_the_same_bits_whatever_runs_beside(backend):
    """The log-probabilities, as float64 of float32 logits, show every bit."""
    llm = LLM(random_model(SMALL, backend=backend))
    params = greedy(12, temperature=1.0, seed=3, logprobs=4)
    quiet = engine(llm, invariant=True).generate([ids(6, 30)], params)[0][0]
    busy = engine(llm, invariant=True, num_blocks=40, max_tokens_per_step=24, prefix="radix")
    others = [busy.add(ids(7 + i, 5 + 4 * i), greedy(10)) for i in range(5)]
    mine = busy.add(ids(6, 30), params)
    answer = busy.running[mine].answers[0]
    busy.step()
    busy.cancel(others[1])
    while busy.has_work:
        busy.step()
    assert answer.token_ids == quiet.token_ids and answer.logprobs == quiet.logprobs
    fast = engine(llm).generate([ids(6, 30)], params)[0][0]
    assert fast.logprobs != quiet.logprobs, "other operations, other bits: so the mode was on"


def test_an_engine_leaves_the_model_it_was_given_as_it_is():
    llm = LLM(random_model(SMALL))
    before = llm.transformer.ops
    said(engine(llm, invariant=True).generate([[1]], greedy(2)))
    assert llm.transformer.ops is before and llm.transformer.ops.linear is layers.linear


def test_the_bench_counts_what_it_says():
    llm = LLM(random_model(SMALL))
    figures = slowdown(llm, batch=2, prompt_tokens=8, steps=2)
    assert {f"{w}_{n}" for w in ("prefill", "decode") for n in ("s", "invariant_s", "slowdown")} == figures.keys()
    assert figures["decode_slowdown"] == figures["decode_invariant_s"] / figures["decode_s"]
    beside = overhead(llm, batch=3, prompt_tokens=4, steps=5)
    assert 0 < beside["overhead_s"] < beside["step_s"] and 0 < beside["overhead"] < 1


@pytest.mark.model
def test_smollm2_gives_the_same_bits_in_any_batch_and_any_chunks(smollm2_path):
    transformer = invariant_model(LLM(smollm2_path, backend="numba").transformer)
    tokens = np.random.default_rng(0).integers(0, 49152, 70).tolist()
    expected = whole(transformer, tokens)
    for size in (1, 16, 512):
        assert np.array_equal(in_chunks(transformer, tokens, size), expected)
    for batch in (2, 16, 32):
        cache, rows = transformer.new_cache(), []
        neighbours, rng = [transformer.new_cache() for _ in range(batch - 1)], np.random.default_rng(batch)
        for a in range(0, 70, 35):
            step = [Segment(rng.integers(0, 49152, int(rng.choice([1, 3]))).tolist(), c.length, c) for c in neighbours]
            rows.append(transformer.forward([*step, Segment(tokens[a : a + 35], a, cache, "all")])[-1])
        assert np.array_equal(np.concatenate(rows), expected)
