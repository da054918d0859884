"""The fused halves of a layer in the Numba backend, against the reference functions in float64 over the same weights.

Tolerance: x is rounded to 16 bits before each product, twice in the second half, and what the rounding of one product is
off by goes through the next. TOLERANCE is of the largest result of the same kind; 2^-16 comes in with each rounding, and
random weights make some results ten times as large as most.
"""

from types import SimpleNamespace

import gguf
import numpy as np
import pytest
from kernel_help import stored_matrix, values_of

from minillm import layers
from minillm.backends import get_backend
from minillm.backends.numba_.team import set_threads, threads
from minillm.formats.blocks import BLOCK_TYPES
from minillm.model.weights import LayerWeights, StoredTensor

ops = get_backend("numba")
TOLERANCE = 2e-4
MIXES = {  # types of q, k, v and of gate, up, down: together all, in the company that files keep them in, and float ones
    "q4_0": ("Q4_0", "Q4_0", "Q8_0"),
    "q5": ("Q4_1", "Q5_0", "Q5_1"),
    "q4_k": ("Q4_K", "Q4_K", "Q6_K"),
    "q3_k": ("Q2_K", "Q3_K", "Q5_K"),
    "float": ("F32", "F16", "BF16"),
    "packed and float": ("Q4_0", "F16", "Q8_0"),
}
TOKENS = (1, 2, 3, 4, 5, 8, 9, 33)
SWITCHES = {
    "plain": {},
    "bias": {"bias": True},
    "qk norm": {"qk_norm": True},
    "both": {"bias": True, "qk_norm": True},
}
HEADS = ((4, 4, 8), (6, 2, 16), (5, 1, 10), (1, 1, 6))  # heads, KV heads, width: the last bands full and not


def shape(heads=6, kv_heads=2, d_head=16, qk_norm=False, interleaved=True):
    c = {"n_heads": heads, "n_kv_heads": kv_heads, "d_head": d_head, "qk_norm": qk_norm, "rope_interleaved": interleaved}
    return SimpleNamespace(norm_eps=1e-5, **c)


def layer(mix, c, d_model=256, d_ff=512, bias=False):  # -> weights for the backend, the same in float64
    """Norms around 1, biases as large as the products."""
    rng, wide, narrow = np.random.default_rng(8), c.n_heads * c.d_head, c.n_kv_heads * c.d_head
    rows = {"q": (wide, d_model), "k": (narrow, d_model), "v": (narrow, d_model), "o": (d_model, wide)}
    rows |= {"gate": (d_ff, d_model), "up": (d_ff, d_model), "down": (d_model, d_ff)}
    types = dict(zip(("q", "k", "v", "gate", "up", "down"), 2 * mix, strict=True)) | {"o": "F32"}
    stored = {name: stored_matrix(types[name], *size, seed=len(name) + ord(name[0])) for name, size in rows.items()}
    around = {"attn_norm": (d_model, 1), "ffn_norm": (d_model, 1)}
    around |= {"q_norm": (c.d_head, 1), "k_norm": (c.d_head, 1)} if c.qk_norm else {}
    around |= {"q_bias": (wide, 0), "k_bias": (narrow, 0), "v_bias": (narrow, 0)} if bias else {}
    vectors = {name: (mean + rng.normal(0, 0.5, n)).astype(np.float32) for name, (n, mean) in around.items()}
    exact = {name: np.float64(a) for name, a in vectors.items()} | {n: np.float64(values_of(t)) for n, t in stored.items()}
    return LayerWeights(**{n: ops.load_matrix(t) for n, t in stored.items()}, **vectors), LayerWeights(**exact)


def draws(n, columns=256, seed=0):
    return np.random.default_rng([seed, n]).standard_normal((n, columns)).astype(np.float32) * np.float32(3)


def angles(n, d_head):
    return layers.rope_angles(np.arange(5, 5 + n), layers.rope_frequencies(d_head, 10000.0))


def check(actual, expected, what):
    assert actual.shape == expected.shape and actual.dtype == np.float32, f"{what}: {actual.dtype} {actual.shape}"
    error = np.abs(actual - expected).max(initial=0) / np.abs(expected).max(initial=1e-30)
    assert error < TOLERANCE, f"{what}: off by {error:.2g} of the largest"


@pytest.mark.parametrize("mix", MIXES)
def test_both_halves_for_all_types_and_numbers_of_tokens(mix):
    c = shape()
    w, exact = layer(MIXES[mix], c)
    for n in TOKENS:
        x, turn = draws(n), angles(n, c.d_head)
        before = x.copy()
        found, expected = ops.attention_inputs(x, w, c, *turn), layers.attention_inputs(np.float64(x), exact, c, *turn)
        for name, a, b in zip("qkv", found, expected, strict=True):
            check(a, b, f"{name}, {mix}, {n} tokens")
        check(ops.add_feed_forward(x, w, c), layers.add_feed_forward(np.float64(x), exact, c), f"{mix}, {n} tokens")
        assert x.tobytes() == before.tobytes(), "the input was written to"


@pytest.mark.parametrize("interleaved", [True, False], ids=["pairs", "halves"])
@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("mix", ["q4_0", "float"])
def test_every_switch_of_the_architecture_and_every_number_of_heads(mix, switch, interleaved):
    for heads in HEADS:
        options = dict(SWITCHES[switch])
        bias = options.pop("bias", False)
        c = shape(*heads, **options, interleaved=interleaved)
        w, exact = layer(MIXES[mix], c, bias=bias)
        for n in (1, 3, 9):
            x, turn = draws(n), angles(n, c.d_head)
            found, expected = ops.attention_inputs(x, w, c, *turn), layers.attention_inputs(np.float64(x), exact, c, *turn)
            for name, a, b in zip("qkv", found, expected, strict=True):
                check(a, b, f"{name}, {switch}, {heads}, {n} tokens")


@pytest.mark.parametrize("d_model, d_ff", [(32, 32), (96, 160), (576, 1536), (160, 48 * 32)])
def test_widths_of_model_and_feed_forward(d_model, d_ff):
    c = shape(5, 1, 10)
    w, exact = layer(MIXES["q4_0"], c, d_model, d_ff)
    for n in (1, 2, 7, 17):
        x, turn = draws(n, d_model), angles(n, c.d_head)
        check(ops.add_feed_forward(x, w, c), layers.add_feed_forward(np.float64(x), exact, c), f"{n} tokens")
        found, expected = ops.attention_inputs(x, w, c, *turn), layers.attention_inputs(np.float64(x), exact, c, *turn)
        for name, a, b in zip("qkv", found, expected, strict=True):
            check(a, b, f"{name}, {n} tokens")


def test_a_row_of_tokens_may_lie_anywhere():
    c = shape()
    w, _ = layer(MIXES["q4_0"], c)
    x, turn = draws(9), angles(9, c.d_head)
    wide = np.full((18, 300), np.nan, np.float32)
    wide[::2, :256] = x
    for view in (wide[::2, :256], np.asfortranarray(x), x.repeat(2, axis=1)[:, ::2], np.float64(x)):
        assert ops.add_feed_forward(view, w, c).tobytes() == ops.add_feed_forward(x, w, c).tobytes()
        for a, b in zip(ops.attention_inputs(view, w, c, *turn), ops.attention_inputs(x, w, c, *turn), strict=True):
            assert a.tobytes() == b.tobytes()


def test_large_gates_neither_overflow_nor_vanish():
    """silu(x) is x far to the right and 0 far to the left; e^-x on the way would be infinite."""
    c, d = shape(), 64
    rng = np.random.default_rng(0)
    signs = np.where(rng.random((d, d)) < 0.5, -1, 1).astype(np.float32)
    kinds = {"q": "Q4_0", "k": "Q4_0", "v": "Q8_0", "o": "Q8_0", "gate": "Q4_0", "up": "Q4_0", "down": "Q8_0"}
    stored = {name: tensor_of(signs * 40, kind) for name, kind in kinds.items()}
    ones = {"attn_norm": np.ones(d, np.float32), "ffn_norm": np.ones(d, np.float32)}
    w = LayerWeights(**ones, **{n: ops.load_matrix(t) for n, t in stored.items()})
    exact = LayerWeights(**ones, **{n: np.float64(values_of(t)) for n, t in stored.items()})
    for size in (1e-20, 1e-3, 1.0, 1e15):
        x = draws(5, d) * np.float32(size)
        with np.errstate(over="ignore"):
            expected = layers.add_feed_forward(np.float64(x), exact, c)
        check(ops.add_feed_forward(x, w, c), expected, f"size {size}")


def tensor_of(values, kind):
    raw = gguf.quants.quantize(values, gguf.GGMLQuantizationType[kind])
    return StoredTensor(raw.view(np.uint8).reshape(-1), BLOCK_TYPES[kind], values.shape)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_spoils_its_token_and_no_other(bad):
    c = shape()
    w, _ = layer(MIXES["q4_0"], c)
    for n, place in ((1, 0), (9, 4)):
        x, turn, others = draws(n), angles(n, c.d_head), np.arange(n) != place
        clean = [ops.add_feed_forward(x, w, c), *ops.attention_inputs(x, w, c, *turn)]
        x[place, 77] = bad
        for before, after in zip(clean, [ops.add_feed_forward(x, w, c), *ops.attention_inputs(x, w, c, *turn)], strict=True):
            assert not np.isfinite(after[place]).any() and after[others].tobytes() == before[others].tobytes()


@pytest.mark.parametrize("n", [1, 4, 5, 33])
def test_one_thread_or_two_today_or_tomorrow_the_bits_are_the_same(n):
    c = shape()
    w, _ = layer(MIXES["q4_0"], c)
    x, turn, before, results = draws(n), angles(n, c.d_head), threads(), set()
    try:
        for count in (1, 2, 3):
            set_threads(count)
            for _ in range(3):
                inputs = b"".join(a.tobytes() for a in ops.attention_inputs(x, w, c, *turn))
                results.add((inputs, ops.add_feed_forward(x, w, c).tobytes()))
    finally:
        set_threads(before)
    assert len(results) == 1
