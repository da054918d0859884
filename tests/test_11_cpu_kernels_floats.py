"""Float matrices in the fused kernels: as handles beside packed ones, in every width, one call the same bits as many.

Tolerance: none of a float model's inputs is rounded, so it is NumPy's but for the order of sums (1e-4 of the largest logit).
"""

from dataclasses import replace

import gguf
import numpy as np
import pytest
from kernel_help import check_product, stored_matrix, values_of
from test_11_cpu_kernels_model import FLOAT_TOLERANCE, PACKED_TOLERANCE, SMALL
from test_11_cpu_kernels_stack import decoded, layer_by_layer

from minillm import layers
from minillm.backends import get_backend
from minillm.backends.numba_ import stack
from minillm.backends.numba_.crossover import SHORT
from minillm.backends.numba_.linear import can_fuse
from minillm.backends.numba_.team import set_threads
from minillm.cache.paged import PageStore
from minillm.formats.blocks import BLOCK_TYPES
from minillm.model.random_model import random_tensor, tensor_shapes
from minillm.model.transformer import Segment, Transformer
from minillm.model.weights import LayerWeights, StoredTensor, load_weights

pytestmark = pytest.mark.usefixtures("two_threads")
SHAPES = {  # rows: 16 to 160, so that bands of 64 are full, cut anywhere, and shared by two cores
    "like tiny": replace(SMALL, d_model=256, n_heads=8, n_kv_heads=2, d_head=32, d_ff=512),
    "narrow": replace(SMALL, d_model=64, n_heads=2, n_kv_heads=1, d_head=32, d_ff=160),
    "halves of registers": replace(SMALL, d_model=48, n_heads=5, n_kv_heads=1, d_head=16, d_ff=112),
}
KINDS = {
    "F16": {"": "F16"},
    "F32": {"": "F32"},
    "BF16": {"": "BF16"},
    "both": {"attn_k": "F32", "ffn_up": "F32", "": "F16"},
    "packed q, v, down": {"attn_q": "Q4_0", "attn_v": "Q8_0", "ffn_down": "Q5_1", "": "F16"},
    "packed k, o, gate": {"attn_k": "Q8_0", "attn_output": "Q4_1", "ffn_gate": "Q8_0", "": "F32"},
    "a packed layer": {"blk.0": "Q8_0", "": "F16"},
}


def model_of(config, kinds, backend="numba", dtype=np.float32):
    """A random model; kinds: part of a tensor's name -> type, the first that fits. Rows of odd length stay float16."""

    def tensor(name):
        if name not in (shapes := tensor_shapes(config)):
            return None
        values, kind = random_tensor(name, shapes[name], seed=1), "F32"
        if values.ndim == 2:
            kind = next(t for part, t in kinds.items() if part in name)
            kind = "F16" if values.shape[1] % 32 and kind.startswith("Q") else kind
            values = gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind])
        return StoredTensor(values.view(np.uint8).reshape(-1), BLOCK_TYPES[kind], shapes[name])

    ops = get_backend(backend)
    return Transformer(config, load_weights(config, tensor, ops), ops, np.dtype(dtype).name)


@pytest.fixture
def calls(monkeypatch):
    """How many tokens each call of the kernel for all layers had."""
    seen, kernel = [], stack.decode
    monkeypatch.setattr(stack, "decode", lambda *args: seen.append(len(args[2])) or kernel(*args))
    return seen


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_a_step_is_one_call_with_the_bits_of_the_separate_ones_and_says_what_numpy_says(config, kinds, calls):
    model, lengths = model_of(config, kinds), [3, 64, 1, 65, 2, 2, 9]
    one = decoded(model, lengths, [model.new_cache() for _ in lengths])
    short = [n for n in lengths if n <= SHORT]
    assert calls == short + [len(lengths)] * 3, "the short prompts and three steps: one call each"
    calls.clear()
    each = decoded(layer_by_layer(model), lengths, [model.new_cache() for _ in lengths])
    assert not calls and np.array_equal(one, each)
    reference = model_of(config, kinds, "numpy")
    expected = decoded(reference, lengths, [reference.new_cache() for _ in lengths])
    tolerance = PACKED_TOLERANCE if any(kind.startswith("Q") for kind in kinds.values()) else FLOAT_TOLERANCE
    assert np.abs(one - expected).max() < tolerance * np.abs(expected).max()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("kinds", [KINDS["F16"], KINDS["packed q, v, down"]], ids=["F16", "mixed"])
@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_neither_threads_nor_pages_nor_company_change_a_bit(config, kinds, dtype):
    model, lengths = model_of(config, kinds, dtype=dtype), [9, 70, 2]
    together = decoded(model, lengths, [model.new_cache() for _ in lengths])
    store = PageStore.for_model(config, 120, 16, dtype=dtype)
    assert np.array_equal(decoded(model, lengths, [store.new_cache() for _ in lengths]), together)
    set_threads(1)
    assert np.array_equal(decoded(model, lengths, [model.new_cache() for _ in lengths]), together)
    cache = model.new_cache()
    model.forward([Segment(np.random.default_rng(5).integers(0, 300, 9), 0, cache)])
    alone = [model.forward([Segment([step], cache.length, cache)])[0] for step in range(3)]
    assert np.array_equal(np.array(alone).reshape(3, -1), together.reshape(3, 3, -1)[:, 0])


def test_a_width_that_fills_no_register_goes_layer_by_layer_and_is_right(calls):
    config = replace(SMALL, d_model=40, d_ff=100)
    model, reference = (model_of(config, KINDS["F16"], backend) for backend in ("numba", "numpy"))
    found, expected = (decoded(m, [3, 8], [m.new_cache() for _ in range(2)]) for m in (model, reference))
    assert not calls and np.abs(found - expected).max() < FLOAT_TOLERANCE * np.abs(expected).max()
    assert not can_fuse(object()), "nor do weights that are neither packed nor float"


@pytest.mark.parametrize("n", [1, 3, 9])
@pytest.mark.parametrize("type", ["F16", "F32"])
def test_float_matrices_take_numbers_as_they_are_and_not_rounded(type, n):
    """One number of each row is a thousand times the others, and meets weights of zero: rounded in blocks, they keep 5 bits."""
    norm = np.where(np.arange(64) == 5, 1000.0, 1.0)
    c, rng, ops = replace(SMALL, d_model=64, d_ff=96), np.random.default_rng(n), get_backend("numba")
    exact, ours = {"attn_norm": norm, "ffn_norm": norm}, {}
    shapes = {"q": (64, 64), "k": (32, 64), "v": (32, 64), "o": (64, 64), "gate": (96, 64), "up": (96, 64), "down": (64, 96)}
    for name, shape in shapes.items():
        values = rng.normal(0, 1, shape).astype(np.float16)
        values[:, 5] = 0
        if name == "up":
            values[5] *= 1000  # and one number of what the second product takes
        exact[name], stored = np.float64(values), values if type == "F16" else values.astype(np.float32)
        ours[name] = ops.load_matrix(StoredTensor(stored.view(np.uint8).reshape(-1), BLOCK_TYPES[type], shape))
    ours |= {name: norm.astype(np.float32) for name in ("attn_norm", "ffn_norm")}
    w, exact = LayerWeights(**ours), LayerWeights(**exact)
    x = rng.standard_normal((n, 64)).astype(np.float32)
    angles = layers.rope_angles(np.arange(n), layers.rope_frequencies(c.d_head, 10000.0))
    found, expected = ops.attention_inputs(x, w, c, *angles), layers.attention_inputs(np.float64(x), exact, c, *angles)
    found = (*found, ops.add_feed_forward(x, w, c))
    expected = (*expected, layers.add_feed_forward(np.float64(x), exact, c))
    for a, b, what in zip(found, expected, ("q", "k", "v", "feed-forward"), strict=True):
        assert np.abs(a - b).max() < 1e-5 * np.abs(b).max(), what


@pytest.mark.parametrize("type", ["F16", "F32"])
@pytest.mark.parametrize("rows", [1, 16, 17, 48, 63, 64, 65, 112, 160, 192, 200])
def test_rows_of_any_number_times_tokens_of_any_number(type, rows):
    """Fresh and added to, by one core and two: right, the same bits, and each token's whatever the others are."""
    ops, stored = get_backend("numba"), stored_matrix(type, rows, 50)
    weight, exact, rng = ops.load_matrix(stored), values_of(stored), np.random.default_rng(rows)
    x, before = rng.standard_normal((15, 50), np.float32), rng.standard_normal((15, rows), np.float32)
    alone = np.concatenate([ops.linear(row[None], weight) for row in x])
    for n in (1, 2, 3, 5, 6, 7, 8, 15):
        for count in (1, 2, 3):
            set_threads(count)
            y = ops.linear(x[:n], weight)
            check_product(y, x[:n], exact, False, f"{n} tokens")
            assert np.array_equal(y, alone[:n])
            added = ops.add_linear(before[:n], x[:n], weight)
            assert np.abs(added - (before[:n] + x[:n] @ exact.T)).max() < 1e-4
            assert added.shape == y.shape and added.dtype == np.float32
