"""Every operation of every backend that is present, against NumPy: the same names, the same arguments, the same answer.

A backend that keeps x in 16 bits within a product may be off by 1e-4 of the largest result; what a kernel of its own can
be held to more tightly is tested beside it (test_11_cpu_kernels.py).
"""

import inspect
import os
import subprocess
import sys
from itertools import pairwise
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import refusing_backend
from kernel_help import stored_matrix

from minillm import layers
from minillm.backends import BACKENDS, fitting_backend, get_backend, numpy_, step
from minillm.backends.ops import REQUIRED, ops_of
from minillm.cache.contiguous import ContiguousCache
from minillm.cache.paged import PageStore
from minillm.errors import MiniLLMError
from minillm.layers import rope_frequencies
from minillm.model.transformer import Segment
from minillm.model.weights import LayerWeights

C = SimpleNamespace(n_heads=6, n_kv_heads=2, d_head=16, norm_eps=1e-5, qk_norm=False, rope_interleaved=True)
D, D_FF, N = 64, 96, 7
NOT_COMPUTED = {"AttentionStep", "load_matrix", "prepare_layers", "upload", "download"}  # what the others here go through
MATRICES = {"q": (96, D), "k": (32, D), "v": (32, D), "o": (D, 96), "gate": (D_FF, D), "up": (D_FF, D), "down": (D, D_FF)}


def present():
    for name in BACKENDS:
        try:
            get_backend(name)
        except MiniLLMError:
            continue
        yield name


def draws(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def cases(ops, types):  # -> {operation: result}
    """Each operation once, on the same numbers for every backend. types: the first for q, k, gate and up, the last for others."""

    def up(array):
        return ops.upload([array])[0]

    x, h = up(draws(1, N, D)), up(draws(2, N, 96))
    kinds = {name: types[0 if name in ("q", "k", "gate", "up") else -1] for name in MATRICES}
    matrices = {name: ops.load_matrix(stored_matrix(kinds[name], *shape)) for name, shape in MATRICES.items()}
    norms = [up(1 + draws(seed, D)) for seed in (3, 4, 10, 11)]
    w, other = (LayerWeights(attn_norm=norms[i], ffn_norm=norms[i + 1], **matrices) for i in (0, 2))
    cos, sin = ops.rope_angles(up(np.arange(3, 3 + N)), up(rope_frequencies(16, 1e4)))
    q, k, v = draws(5, N, 6, 16), draws(6, 20, 2, 16), draws(7, 20, 2, 16)
    pages = [up(np.concatenate([a, draws(8, 4, 2, 16)]).reshape(3, 8, 2, 16)[[2, 0, 1]]) for a in (k, v)]
    q, one, k, v = up(q), up(q[:1]), up(k), up(v)
    logits = np.float32([[1, 3, 3], [0, np.nan, 9], [-np.inf, -np.inf, 0], [2, 1, np.inf], [-np.inf] * 3])
    layers = ops.prepare_layers([w, other])
    found = {
        "empty": [ops.empty((2, 0, 3)), ops.empty((0,), np.float16)],
        "zeros": [ops.zeros((2, 3)), ops.zeros((2, 3), np.float16)],
        "most_likely": ops.most_likely(up(logits)),
        "embed": ops.embed(up(np.array([3, 0, 95])), w.q),
        "linear": [ops.linear(x, w.q), ops.linear(x, w.q, up(draws(9, 96)))],
        "add_linear": ops.add_linear(x, h, w.o),
        "attention_inputs": list(ops.attention_inputs(x, w, C, cos, sin)),
        "add_feed_forward": ops.add_feed_forward(x, w, C),
        "run_layers": [through(ops, up, x, layers, lengths) for lengths in ([1] * N, [4, 1, 2])],
        "rms_norm": ops.rms_norm(x, w.attn_norm, 1e-5),
        "rope_angles": [cos, sin],
        "attention": [ops.attention(q, k, v), ops.attention(one, k, v)],
        "paged_attention": ops.paged_attention(q, *pages, up(np.array([1, 2, 0])), 20),
    }
    return {operation: [ops.download(result) for result in listed(results)] for operation, results in found.items()}


def through(ops, up, x, layers, lengths):
    """All layers, for sequences of which so many tokens are new and some were there before; one of them in pages."""
    bounds = np.cumsum([0, *lengths])
    caches = [ContiguousCache(2, 2, 16, 64, ops=ops) for _ in lengths]
    if len(set(lengths)) > 1:
        caches[-1] = PageStore(2, 2, 16, num_blocks=16, block_size=4, ops=ops).new_cache()
    for seed, cache in enumerate(caches, 20):
        for layer in range(2):
            cache.append(layer, up(draws(seed, seed - 18, 2, 16)), up(draws(-seed % 97, seed - 18, 2, 16)))
    positions = np.concatenate([np.arange(n) + cache.length for n, cache in zip(lengths, caches, strict=True)])
    segments = [Segment(np.zeros(n, int), cache.length, cache) for n, cache in zip(lengths, caches, strict=True)]
    step = ops.AttentionStep(ops, segments, [slice(a, b) for a, b in pairwise(bounds)])
    step.place(ops.upload(step.indices()))
    angles = ops.rope_angles(up(positions), up(rope_frequencies(16, 1e4)))
    found = ops.run_layers(x, layers, C, angles, step)
    assert [cache.length for cache in caches] == [n + i for i, n in enumerate(lengths, 2)]
    return found


def test_the_likeliest_token_of_numpy():
    logits = np.float32([[1, 3, 3], [0, np.nan, 9], [-np.inf, -np.inf, 0], [2, 1, np.inf], [-np.inf] * 3])
    assert numpy_.most_likely(logits).tolist() == [1, -1, 2, -1, -1]


def operations(name):
    return ops_of(refusing_backend) if name == "refusing" else get_backend(name)


@pytest.mark.parametrize("types", [["F32"], ["F16", "BF16"], ["Q4_0", "Q8_0"]], ids="/".join)
@pytest.mark.parametrize("name", [*present(), "refusing"])
def test_every_operation_of_every_backend_gives_what_numpy_gives(name, types):
    expected = cases(get_backend("numpy"), types)
    found = cases(operations(name), types)
    assert set(REQUIRED) - NOT_COMPUTED == set(expected), "an operation without a case"
    for operation, results in expected.items():
        for ours, theirs in zip(found[operation], results, strict=True):
            what = f"{operation} of {name} over {types}"
            assert ours.shape == theirs.shape and ours.dtype == theirs.dtype, what
            assert ours.dtype == np.float32 or operation in ("empty", "zeros", "most_likely"), what
            assert np.abs(ours - theirs).max(initial=0) <= 1e-4 * np.abs(theirs).max(initial=0), what


def listed(results):
    return results if isinstance(results, list) else [results]


def test_numba_is_among_them():
    assert "numba" in set(present())


@pytest.mark.parametrize("name", [*present(), "refusing"])
def test_the_operations_of_every_backend_take_what_the_references_take(name):
    """The same names in the same order; after them a backend may take more, by default."""
    ours, reference = operations(name), get_backend("numpy")
    for operation in set(REQUIRED) - {"prepare_layers"}:  # of Numba: the class that it makes of them
        expected = parameters(getattr(reference, operation))
        if ours.routed_layers is not None:
            expected = [p for p in expected if p != "linear"]
        found = parameters(getattr(ours, operation))
        assert found[: len(expected)] == expected or found == ["arguments"], f"{operation} of {name}"


def parameters(operation):
    return [*inspect.signature(operation).parameters]


def test_a_backend_that_lacks_operations_is_refused_by_their_names(monkeypatch):
    poor = ModuleType("poor_")
    vars(poor).update({name: getattr(numpy_, name) for name in REQUIRED if name not in ("embed", "upload")})
    monkeypatch.setitem(sys.modules, "poor_", poor)
    monkeypatch.setitem(BACKENDS, "poor", "poor_")
    with pytest.raises(MiniLLMError, match=f"poor backend has {len(REQUIRED) - 2} of the .* missing: upload, embed"):
        get_backend("poor")


def test_what_a_backend_may_have_is_none_where_it_has_it_not():
    plain, fast = get_backend("numpy"), get_backend("numba")
    assert plain.routed_layers is plain.compiling is plain.state is None and plain.invariant is not None
    assert all((fast.routed_layers, fast.compiling, fast.state, fast.invariant, fast.flash_attention))
    assert (plain.name, plain.kv_dtype, fast.name, fast.kv_dtype) == ("numpy", "float32", "numba", "float16")


def test_another_attention_is_not_gone_around():
    """A backend may take sequences or layers together; who replaces its attention must be asked for each sequence."""
    for name in present():
        ops = get_backend(name)
        changed = ops.with_attention(ops.attention)
        assert changed.AttentionStep is step.AttentionStep and changed.run_layers is layers.run_layers
        assert changed.linear is ops.linear and ops is get_backend(name)


def test_auto_is_numba_for_a_small_model_once_its_kernels_are_kept(tmp_path):
    """One process marks that kernels for `tiny` are compiled, the next one finds that; those for other types are not."""
    program = (
        "from minillm.backends import fitting_backend, get_backend; from minillm.model import load, zoo\n"
        "path = zoo.resolve('tiny'); before = load.resolve_backend('auto', path)\n"
        "with get_backend('numba').compiling(load.types_of(path)): pass\n"
        "print(before, load.resolve_backend('auto', path), fitting_backend(1000, 'Q4_K'))"
    )
    env = {k: v for k, v in os.environ.items() if k != "MINILLM_BACKEND"} | {"MINILLM_CACHE": str(tmp_path)}
    for before in ("numpy", "numba"):
        done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True, timeout=300)
        assert done.stdout.split() == [before, "numba", "numpy"]


def test_a_backend_that_cannot_be_loaded_says_why(monkeypatch):
    monkeypatch.setitem(BACKENDS, "numba", "minillm.backends.not_there")
    with pytest.raises(MiniLLMError, match="numba backend cannot be loaded here: .*not_there"):
        get_backend("numba")
    assert fitting_backend(10**9, "F16") == "numpy"


def test_auto_is_numba_for_models_that_repay_compiling_and_what_the_variable_says_before_all(monkeypatch, tmp_path):
    monkeypatch.delenv("MINILLM_BACKEND", raising=False)
    monkeypatch.setenv("MINILLM_CACHE", str(tmp_path))
    assert (fitting_backend(49_999_999, "F16"), fitting_backend(50_000_000, "F16")) == ("numpy", "numba")
    assert get_backend().name == "numpy", "Python's default is the code that the lessons read"
    monkeypatch.setenv("MINILLM_BACKEND", "numpy")
    assert fitting_backend(10**9, "F16") == "numpy"
    monkeypatch.setenv("MINILLM_BACKEND", "numba")
    assert fitting_backend(0, "F16") == "numba" and get_backend().name == "numba"
