"""Adapters within the kernels of the Numba backend: one call of a step gives the bits of many, and NumPy's numbers."""

from itertools import pairwise

import numpy as np
import pytest
from lora_help import random_adapter
from test_11_cpu_kernels_floats import KINDS, SHAPES, model_of
from test_11_cpu_kernels_model import FLOAT_TOLERANCE, PACKED_TOLERANCE
from test_11_cpu_kernels_stack import layer_by_layer

from minillm.backends.numba_ import stack, thin
from minillm.backends.numba_.team import set_threads
from minillm.cache.paged import PageStore
from minillm.model.adapters import prepare
from minillm.model.lora import MATRICES, Adapter
from minillm.model.transformer import Segment

CASES = [("like tiny", "F16"), ("narrow", "both"), ("halves of registers", "F32"), ("like tiny", "packed q, v, down"),
         ("narrow", "packed k, o, gate")]  # fmt: skip
Q_V, O_DOWN = ("attn_q", "attn_v"), ("attn_output", "ffn_down")


def adapters(config, ops):  # of several ranks, on several matrices
    kinds = (3, Q_V), (8, MATRICES), (17, O_DOWN)
    some = [random_adapter(config, rank, 3.0, on, seed) for seed, (rank, on) in enumerate(kinds)]
    return [None, *(prepare(a, config.n_layers, ops) for a in some)]


def decoded(model, chosen, caches, prompt=5, steps=3):
    """Logits of a prefill and of some steps, all sequences together; chosen: the adapter of each."""
    rng = np.random.default_rng(4)
    texts = [rng.integers(0, 250, prompt + i) for i in range(len(chosen))]
    found = model.forward([Segment(t, 0, c, "last", a) for t, c, a in zip(texts, caches, chosen, strict=True)])
    for step in range(steps):
        pairs = enumerate(zip(caches, chosen, strict=True))
        found += model.forward([Segment([9 * step + i], c.length, c, "last", a) for i, (c, a) in pairs])
    return np.concatenate(found)


@pytest.mark.parametrize(("shape", "kinds"), CASES)
def test_one_call_is_the_same_bits_as_half_layers_in_any_batch(shape, kinds, two_threads):
    config = SHAPES[shape]
    model, halves = (model_of(config, KINDS[kinds]) for _ in range(2))
    layer_by_layer(halves)
    none, a, b, c = adapters(config, model.ops)
    for chosen in ([a], [none, a], [a, a, b, none, b, c, a, none, none, c], [b] * 7):
        whole = decoded(model, chosen, [model.new_cache() for _ in chosen])
        assert (decoded(halves, chosen, [model.new_cache() for _ in chosen]) == whole).all(), chosen


@pytest.mark.parametrize(("shape", "kinds"), CASES)
def test_the_numbers_are_those_of_numpy(shape, kinds):
    config, found = SHAPES[shape], {}
    for backend in ("numpy", "numba"):
        model = model_of(config, KINDS[kinds], backend)
        none, a, b, c = adapters(config, model.ops)
        chosen = [a, none, b, b, c, a, none]
        found[backend] = decoded(model, chosen, [model.new_cache() for _ in chosen])
        found[backend, "base"] = decoded(model, [none] * len(chosen), [model.new_cache() for _ in chosen])
    scale = abs(found["numpy"]).max()
    changed = abs(found["numpy"] - found["numpy", "base"]).max(axis=1)
    assert changed[[0, 2, 3, 4, 5]].min() > 0.01 * scale and changed[[1, 6]].max() < 1e-5 * scale
    tolerance = PACKED_TOLERANCE if "packed" in kinds else FLOAT_TOLERANCE
    assert abs(found["numba"] - found["numpy"]).max() < tolerance * scale


def test_a_sequence_says_the_same_alone_and_among_others_on_any_number_of_threads(two_threads):
    config = SHAPES["like tiny"]
    model = model_of(config, KINDS["F16"])
    none, a, b, c = adapters(config, model.ops)
    chosen = [a, none, b, b, c]
    together = [decoded(model, chosen, [model.new_cache() for _ in chosen]).reshape(4, 5, -1)]
    set_threads(1)
    together.append(decoded(model, chosen, [model.new_cache() for _ in chosen]).reshape(4, 5, -1))
    assert (together[0] == together[1]).all()
    for i, one in enumerate(chosen):
        rng = np.random.default_rng(4)
        text = [rng.integers(0, 250, 5 + j) for j in range(5)][i]
        cache = model.new_cache()
        logits = [model.forward([Segment(text, 0, cache, "last", one)])[0]]
        logits += [model.forward([Segment([9 * step + i], cache.length, cache, "last", one)])[0] for step in range(3)]
        assert (np.concatenate(logits) == together[0][:, i]).all(), i


def test_a_step_with_adapters_is_one_call_and_pages_make_no_difference(monkeypatch):
    config, calls = SHAPES["like tiny"], []
    model = model_of(config, KINDS["F16"])
    none, a, b, _ = adapters(config, model.ops)
    kernel = stack.decode
    monkeypatch.setattr(stack, "decode", lambda *args: calls.append(args[-1].runs.tolist()) or kernel(*args))
    chosen = [a, a, none, b, a]
    plain = decoded(model, chosen, [model.new_cache() for _ in chosen])
    prompts = [[0, 11], [26, 35], [18, 26]]  # of 5, 6, … 9 tokens, as rows of one step
    assert calls == [prompts] + [[[0, 2], [4, 5], [3, 4]]] * 3, "a step is one call; neighbours with one adapter are one run"
    store = PageStore.for_model(config, 40, 4, dtype=np.float32)
    paged = decoded(model, chosen, [store.new_cache() for _ in chosen])
    assert (paged == plain).all() and len(calls) == 8


def test_layers_may_have_adapters_of_their_own_or_none():
    """A file may adapt the last layer alone, or each layer at another rank."""
    config, found = SHAPES["like tiny"], {}
    few, many = random_adapter(config, 3, seed=1), random_adapter(config, 40, seed=2)
    last = f"blk.{config.n_layers - 1}."
    weights = {n: w for n, w in few.weights.items() if not n.startswith(last)}
    cases = [Adapter({n: w for n, w in many.weights.items() if n.startswith(last)}, 8.0)]
    cases.append(Adapter(weights | cases[0].weights, 8.0))
    for backend in ("numpy", "numba"):
        model = model_of(config, KINDS["F16"], backend)
        chosen = [prepare(case, config.n_layers, model.ops) for case in (cases[0], cases[0], cases[1])]
        found[backend] = decoded(model, chosen, [model.new_cache() for _ in chosen])
    assert (decoded(layer_by_layer(model), chosen, [model.new_cache() for _ in chosen]) == found["numba"]).all()
    assert abs(found["numba"] - found["numpy"]).max() < FLOAT_TOLERANCE * abs(found["numpy"]).max()


def test_runs_are_stretches_of_neighbours():
    rng = np.random.default_rng(0)
    for _ in range(50):
        rows = np.flatnonzero(rng.random(rng.integers(1, 30)) < 0.5)
        if len(rows):
            runs = thin.runs_of(rows)
            assert [i for first, stop in runs for i in range(first, stop)] == rows.tolist()
            assert all(stop < first for (_, stop), (first, _) in pairwise(runs))
    assert thin.runs_of(slice(3, 7)) == [(3, 7)]
