"""Every operation of every backend that is present, against NumPy: the same names, the same arguments, the same answer.

A backend that keeps x in 16 bits within a product may be off by 1e-4 of the largest result; what a kernel of its own can
be held to more tightly is tested beside it (test_11_cpu_kernels.py).
"""

from types import SimpleNamespace

import numpy as np
import pytest
from kernel_help import stored_matrix

from minillm.backends import BACKENDS, fitting_backend, get_backend
from minillm.cache.contiguous import ContiguousCache
from minillm.errors import MiniLLMError
from minillm.layers import rope_frequencies
from minillm.model.transformer import Segment
from minillm.model.weights import LayerWeights

C = SimpleNamespace(n_heads=6, n_kv_heads=2, d_head=16, norm_eps=1e-5, qk_norm=False, rope_interleaved=True)
D, D_FF, N = 64, 96, 7
NOT_COMPUTED = {"AttentionStep", "load_matrix", "prepare_layers"}  # what the others here go through
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
    x, h = draws(1, N, D), draws(2, N, 96)
    kinds = {name: types[0 if name in ("q", "k", "gate", "up") else -1] for name in MATRICES}
    matrices = {name: ops.load_matrix(stored_matrix(kinds[name], *shape)) for name, shape in MATRICES.items()}
    w = LayerWeights(attn_norm=1 + draws(3, D), ffn_norm=1 + draws(4, D), **matrices)
    cos, sin = ops.rope_angles(np.arange(3, 3 + N), rope_frequencies(16, 1e4))
    q, k, v = draws(5, N, 6, 16), draws(6, 20, 2, 16), draws(7, 20, 2, 16)
    layers = ops.prepare_layers([w, LayerWeights(attn_norm=1 + draws(10, D), ffn_norm=1 + draws(11, D), **matrices)])
    pages = [np.concatenate([a, draws(8, 4, 2, 16)]).reshape(3, 8, 2, 16)[[2, 0, 1]] for a in (k, v)]
    return {
        "embed": ops.embed(np.array([3, 0, 95]), w.q),
        "linear": [ops.linear(x, w.q), ops.linear(x, w.q, draws(9, 96))],
        "add_linear": ops.add_linear(x, h, w.o),
        "attention_inputs": list(ops.attention_inputs(x, w, C, cos, sin)),
        "add_feed_forward": ops.add_feed_forward(x, w, C),
        "run_layers": [through(ops, x, layers, lengths) for lengths in ([1] * N, [4, 1, 2])],
        "rms_norm": ops.rms_norm(x, w.attn_norm, 1e-5),
        "rope_angles": [cos, sin],
        "attention": [ops.attention(q, k, v), ops.attention(q[:1], k, v)],
        "paged_attention": ops.paged_attention(q, *pages, np.array([1, 2, 0]), 20),
    }


def through(ops, x, layers, lengths):
    """All layers, for sequences of which so many tokens are new and some were there before."""
    bounds = np.cumsum([0, *lengths])
    caches = [ContiguousCache(2, 2, 16, 64) for _ in lengths]
    for seed, cache in enumerate(caches, 20):
        for layer in range(2):
            cache.append(layer, draws(seed, seed - 18, 2, 16), draws(-seed % 97, seed - 18, 2, 16))
    positions = np.concatenate([np.arange(n) + cache.length for n, cache in zip(lengths, caches, strict=True)])
    segments = [Segment(np.zeros(n, int), cache.length, cache) for n, cache in zip(lengths, caches, strict=True)]
    step = ops.AttentionStep(ops, segments, [slice(a, b) for a, b in zip(bounds, bounds[1:], strict=False)])
    found = ops.run_layers(x, layers, C, ops.rope_angles(positions, rope_frequencies(16, 1e4)), step)
    assert [cache.length for cache in caches] == [n + i for i, n in enumerate(lengths, 2)]
    return found


@pytest.mark.parametrize("types", [["F32"], ["F16", "BF16"], ["Q4_0", "Q8_0"]], ids="/".join)
@pytest.mark.parametrize("name", [*present()])
def test_every_operation_of_every_backend_gives_what_numpy_gives(name, types):
    expected = cases(get_backend("numpy"), types)
    found = cases(get_backend(name), types)
    assert set(get_backend("numpy").__all__) - NOT_COMPUTED == set(expected), "an operation without a case"
    assert set(get_backend("numpy").__all__) <= set(get_backend(name).__all__)
    for operation, results in expected.items():
        for ours, theirs in zip(listed(found[operation]), listed(results), strict=True):
            assert ours.shape == theirs.shape and ours.dtype == theirs.dtype == np.float32, operation
            assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max(), f"{operation} of {name} over {types}"


def listed(results):
    return results if isinstance(results, list) else [results]


def test_numba_is_among_them():
    assert "numba" in set(present())


def test_a_backend_that_cannot_be_loaded_says_why(monkeypatch):
    monkeypatch.setitem(BACKENDS, "numba", "minillm.backends.not_there")
    with pytest.raises(MiniLLMError, match="numba backend cannot be loaded here: .*not_there"):
        get_backend("numba")
    assert fitting_backend(10**9) == "numpy"


def test_auto_is_numba_for_models_that_repay_compiling_and_what_the_variable_says_before_all(monkeypatch):
    monkeypatch.delenv("MINILLM_BACKEND", raising=False)
    assert (fitting_backend(49_999_999), fitting_backend(50_000_000)) == ("numpy", "numba")
    assert get_backend().__name__ == "minillm.backends.numpy_", "Python's default is the code that the lessons read"
    monkeypatch.setenv("MINILLM_BACKEND", "numpy")
    assert fitting_backend(10**9) == "numpy"
    monkeypatch.setenv("MINILLM_BACKEND", "numba")
    assert fitting_backend(0) == "numba" and get_backend().__name__ == "minillm.backends.numba_"
