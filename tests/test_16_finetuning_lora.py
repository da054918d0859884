"""LoRA: its gradients are the differences', and what dW says of A and B; merged is unmerged; the base is frozen."""

import tracemalloc
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from differences import EACH, check_gradients
from lora_help import random_adapter
from test_16_finetuning_model import BASE, SHAPES, batch_of, doubles, error

from minillm.errors import ModelError, TrainingError
from minillm.model.config import ModelConfig
from minillm.model.lora import MATRICES, adapter_parameters, check_adapter
from minillm.model.random_model import tensor_shapes
from minillm.training import layer, lora, model
from minillm.training.checkpoint import State
from minillm.training.loop import fit
from minillm.training.optimizer import zeros_like

A, B = ".lora_a", ".lora_b"


class Packed:
    """A frozen matrix that is kept as something else, and made dense at each use."""

    def __init__(self, array):
        self.kept, self.made = array, 0

    def dense(self):
        self.made += 1
        return self.kept.copy()


@EACH
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 2])
def test_every_gradient_is_that_of_differences(shape, rank, each):
    config = SHAPES[shape]
    base, (tokens, targets) = doubles(config), batch_of(config, 2, 4)
    adapter = random_adapter(config, rank, alpha=3.0, dtype=np.float64)
    loss = partial(lora.loss, config, base, adapter.alpha)
    value, found = lora.loss_and_gradients(config, base, adapter.alpha, adapter.weights, tokens, targets)
    assert value == loss(adapter.weights, tokens, targets)
    assert list(found) == list(adapter.weights) and len(found) == 14 * config.n_layers
    check_gradients(lambda: loss(adapter.weights, tokens, targets), adapter.weights, found, each)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("matrices", [("attn_q", "attn_v"), ("ffn_down",), MATRICES])
def test_the_merged_model_has_the_same_loss_and_its_dW_gives_dA_and_dB(shape, matrices):
    """W' = W + s B A, so dB = s dW' Aᵀ and dA = s Bᵀ dW'."""
    config = SHAPES[shape]
    base, (tokens, targets) = doubles(config), batch_of(config, 2, 9)
    adapter = random_adapter(config, 2, 5.0, matrices, dtype=np.float64)
    value, found = lora.loss_and_gradients(config, base, 5.0, adapter.weights, tokens, targets)
    whole, full = model.loss_and_gradients(config, lora.merge(base, adapter), tokens, targets)
    assert value == pytest.approx(whole, rel=1e-12) and abs(value - model.loss(config, base, tokens, targets)) > 1e-3
    assert {name.split(".")[2] for name in found} == set(matrices)
    for name, (a, b) in adapter.pairs().items():
        assert error(found[name + A], 2.5 * b.T @ full[name]) < 1e-9, name
        assert error(found[name + B], 2.5 * full[name] @ a.T) < 1e-9, name


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_recomputed_or_not_the_bits_are_the_same_in_the_weights_precision(dtype):
    config = SHAPES["biases, by halves (Qwen2)"]
    base = {name: w.astype(dtype) for name, w in doubles(config).items()}
    adapter = random_adapter(config, dtype=dtype)
    before = {name: w.copy() for name, w in (base | adapter.weights).items()}
    run = partial(lora.loss_and_gradients, config, base, adapter.alpha, adapter.weights, *batch_of(config, 3, 70))
    (value, found), (again, recomputed) = run(), run(recompute=True)
    assert value == again and all((found[n] == recomputed[n]).all() and found[n].dtype == dtype for n in adapter.weights)
    assert all(((base | adapter.weights)[name] == w).all() for name, w in before.items())


def test_no_gradient_of_the_base_is_computed_or_kept(monkeypatch):
    config = replace(BASE, n_layers=3, d_model=64, d_ff=96, vocab_size=1500, n_heads=4, d_head=16)
    base, (tokens, targets) = model.parameters(config), batch_of(config, 1, 8)
    adapter = random_adapter(config)
    weights = sum(w.nbytes for w in base.values())

    def peak(run):
        tracemalloc.start()
        run()
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    full = peak(partial(model.loss_and_gradients, config, base, tokens, targets))
    assert full > weights
    monkeypatch.setattr(layer, "linear_backward", None)  # who calls it fails
    monkeypatch.setattr(model, "embedding_backward", None)
    frozen = peak(partial(lora.loss_and_gradients, config, base, 3.0, adapter.weights, tokens, targets))
    assert frozen < 0.6 * weights, (frozen, weights)


def test_a_base_that_is_made_dense_at_each_use_gives_the_same_bits_and_is_never_kept():
    config = SHAPES["normed q and k (Qwen3)"]
    base, batch = doubles(config), batch_of(config, 2, 5)
    packed = {name: Packed(w) if w.ndim == 2 else w for name, w in base.items()}
    adapter = random_adapter(config, matrices=("attn_q", "ffn_up"), dtype=np.float64)
    right = lora.loss_and_gradients(config, base, 3.0, adapter.weights, *batch)
    for recompute, uses in ((False, 2), (True, 3)):
        for weight in (w for w in packed.values() if isinstance(w, Packed)):
            weight.made = 0
        found = lora.loss_and_gradients(config, packed, 3.0, adapter.weights, *batch, recompute=recompute)
        assert found[0] == right[0] and all((found[1][n] == g).all() for n, g in right[1].items())
        assert packed["blk.0.ffn_up.weight"].made == packed["blk.1.attn_k.weight"].made == uses
    merged = lora.merge(packed, adapter)
    assert (
        isinstance(merged["blk.0.attn_q.weight"], np.ndarray) and merged["blk.0.attn_k.weight"] is packed["blk.0.attn_k.weight"]
    )
    assert (merged["blk.0.attn_q.weight"] == lora.merge(base, adapter)["blk.0.attn_q.weight"]).all()


@pytest.mark.parametrize(("d_in", "d_out", "rank", "tokens"), [(1, 1, 1, 1), (7, 3, 2, 5), (4, 9, 4, 2)])
def test_the_product_is_the_papers_in_loops_and_makes_no_matrix_of_delta_w(d_in, d_out, rank, tokens):
    rng = np.random.default_rng(rank)
    x, w, a, b = (rng.standard_normal(s) for s in ((tokens, d_in), (d_out, d_in), (rank, d_in), (d_out, rank)))
    right = np.zeros((tokens, d_out))
    for t, o in np.ndindex(tokens, d_out):
        low = [sum(a[r, i] * x[t, i] for i in range(d_in)) for r in range(rank)]
        right[t, o] = sum(w[o, i] * x[t, i] for i in range(d_in)) + 7.0 / rank * sum(b[o, r] * low[r] for r in range(rank))
    assert error(lora.lora_linear(x, w, a, b, 7.0), right) < 1e-12
    assert error(x @ (w + lora.delta(a, b, 7.0)).T, right) < 1e-12


def test_a_thin_product_stays_thin():
    x, w = np.zeros((3, 2000), np.float32), np.zeros((2000, 2000), np.float32)
    tracemalloc.start()
    lora.lora_linear(x, w, w[:2], w[:, :2], 1.0)
    lora.lora_backward(x, w[:2], w[:, :2], 1.0, x)
    top = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert top < w.nbytes / 20


@pytest.mark.parametrize("strength", [0.01, 1.0, 100.0])
def test_unmerged_is_the_base_within_two_roundings_and_what_has_no_adapter_is_shared(strength):
    config = SHAPES["groups of 2"]
    base = model.parameters(replace(config, d_model=40, d_ff=64))
    config = replace(config, d_model=40, d_ff=64)
    adapter = random_adapter(config, 3, 4.0, ("attn_q", "ffn_down"), strength=strength)
    kept = {name: w.copy() for name, w in base.items()}
    merged = lora.merge(base, adapter)
    back = lora.unmerge(merged, adapter)
    assert all((base[name] == w).all() for name, w in kept.items())
    for name, w in base.items():
        if name not in adapter.pairs():
            assert back[name] is merged[name] is w
            continue
        a, b = adapter.pairs()[name]
        exact = w.astype(np.float64) + 4 / 3 * (b.astype(np.float64) @ a)
        assert error(merged[name], exact) < 1e-6 and merged[name].dtype == np.float32
        bound = 2.0**-24 * (abs(merged[name]).astype(np.float64) + abs(w)) * 1.001
        assert (abs(back[name].astype(np.float64) - w) <= bound + 2.0**-24 * abs(merged[name]) * 1e-3).all(), name
        assert (merged[name] != w).mean() > 0.9


def test_a_fresh_adapter_changes_nothing_and_has_as_many_numbers_as_the_formula():
    config = replace(SHAPES["groups of 2"], n_layers=3, d_model=12, d_ff=20)
    base, batch = doubles(config), batch_of(config, 2, 6)
    for matrices in (("attn_q", "attn_v"), MATRICES):
        adapter = lora.fresh_adapter(config, 3, 6.0, matrices)
        assert lora.loss(config, base, 6.0, adapter.weights, *batch) == model.loss(config, base, *batch)
        assert sum(w.size for w in adapter.weights.values()) == adapter_parameters(config, 3, matrices)
        check_adapter(config, adapter, "fresh")
    other = lora.fresh_adapter(config, 3, 6.0, MATRICES, seed=1)
    assert all((w == other.weights[n]).all() == n.endswith(B) for n, w in adapter.weights.items())
    again = lora.fresh_adapter(config, 3, 6.0, MATRICES)
    assert all((w == again.weights[n]).all() for n, w in adapter.weights.items())


def test_gpt3_at_rank_1_has_the_papers_4_7_million_numbers():
    gpt3 = ModelConfig(
        n_layers=96, d_model=12288, n_heads=96, n_kv_heads=96, d_head=128, d_ff=4 * 12288, vocab_size=50257, context_length=2048
    )
    assert adapter_parameters(gpt3, 1) == 4_718_592  # Hu et al., Table 4: 4.7M
    assert adapter_parameters(gpt3, 8) == 37_748_736  # 37.7M


def test_the_loop_trains_an_adapter_and_leaves_the_base(tmp_path):
    config = replace(SHAPES["groups of 2"], d_model=16, d_ff=24)
    base, (tokens, targets) = {n: w.astype(np.float32) for n, w in doubles(config).items()}, batch_of(config, 2, 12)
    kept = {name: w.copy() for name, w in base.items()}
    adapter = lora.fresh_adapter(config, 4, 8.0, MATRICES)
    run = SimpleNamespace(steps=60, micro_batches=1, evaluate_every=60, checkpoint_every=60)
    optimizer = SimpleNamespace(
        beta1=0.9, beta2=0.99, epsilon=1e-8, weight_decay=0.0, clip=1.0, learning_rate=0.05, floor=0.01, warmup=3
    )
    state = State(0, adapter.weights, zeros_like(adapter.weights), zeros_like(adapter.weights), {"epoch": 0, "next": 0})
    batches = SimpleNamespace(draw=lambda: (tokens, targets), restore=lambda at: None, state={"epoch": 0, "next": 0})
    losses = []
    gradients = partial(lora.loss_and_gradients, config, base, adapter.alpha)
    held_out = partial(lora.loss, config, base, adapter.alpha)
    fit(
        SimpleNamespace(run=run, optimizer=optimizer), state, batches, gradients, lambda w: held_out(w, tokens, targets),
        tmp_path / "checkpoint.npz", {}, losses.append,
    )  # fmt: skip
    assert losses[-1].loss < 0.8 * losses[0].loss and losses[-1].held_out_loss < losses[-1].loss
    assert all((base[name] == w).all() for name, w in kept.items())
    merged = model.loss(config, lora.merge(base, adapter), tokens, targets)
    assert merged == pytest.approx(losses[-1].held_out_loss, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rank": 6}, r"rank must be 1 to 5, that of blk.0.attn_q.weight \(8, 5\), found 6"),
        ({"rank": 4, "matrices": ("attn_q", "ffn_up")}, r"1 to 3, that of blk.0.ffn_up.weight \(3, 5\), found 4"),
        ({"rank": 0}, "found 0"),
        ({"rank": 2.0}, r"found 2\.0"),
        ({"rank": True}, "found True"),
        ({"alpha": 0}, "alpha must be a number above 0, found 0"),
        ({"alpha": float("nan")}, "found nan"),
        ({"matrices": ("attn_q", "attn_z")}, "attn_q, attn_k, attn_v, attn_output, ffn_gate, ffn_up, ffn_down, found 'attn_z'"),
        ({"matrices": ("attn_norm",)}, "found 'attn_norm'"),
        ({"matrices": ()}, "found none of them"),
    ],
)
def test_what_cannot_be_an_adapter_is_refused(settings, words):
    with pytest.raises(TrainingError, match=words):
        lora.fresh_adapter(BASE, **({"rank": 2, "alpha": 4.0} | settings))


Q = "blk.0.attn_q.weight"


def change(name, array):
    return lambda weights: weights | {name: array}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda w: {}, "at least one pair of matrices, found none"),
        (change("blk.2.attn_q.weight.lora_a", np.zeros((2, 5))), "'blk.2.attn_q.weight.lora_a' belongs to nothing in"),
        (change("token_embd.weight.lora_a", np.zeros((2, 5))), "'token_embd.weight.lora_a' belongs to nothing"),
        (change(Q, np.zeros((8, 5))), "belongs to nothing"),
        (lambda w: {n: a for n, a in w.items() if n != Q + B}, f"'{Q}.lora_a' is there, its other half '{Q}.lora_b' is missing"),
        (lambda w: {n: a for n, a in w.items() if n != Q + A}, f"its other half '{Q}.lora_a' is missing"),
        (change(Q + A, np.zeros((2, 6))), r"must have shape \(2, 5\), found \(2, 6\)"),
        (change(Q + A, np.zeros(2)), r"must have shape \(2, 5\), found \(2,\)"),
        (change(Q + A, np.zeros(())), r"must have shape \(0, 5\), found \(\)"),
        (change(Q + B, np.zeros((8, 3))), r"must have shape \(8, 2\), found \(8, 3\)"),
        (lambda w: w | {Q + A: np.zeros((6, 5)), Q + B: np.zeros((8, 6))}, "must be 1 to 5, that of the matrix, found 6"),
        (lambda w: w | {Q + A: np.zeros((0, 5)), Q + B: np.zeros((8, 0))}, "found 0"),
        (change(Q + B, np.full((8, 2), np.nan)), "16 values that are not finite"),
    ],
)
def test_an_adapter_from_a_stranger_is_checked(spoil, words):
    right = random_adapter(BASE)
    check_adapter(BASE, right, "mine")
    with pytest.raises(ModelError, match=words) as caught:
        check_adapter(BASE, lora.Adapter(spoil(right.weights), 3.0), "theirs.gguf")
    assert str(caught.value).startswith("theirs.gguf: ")


@pytest.mark.parametrize("alpha", [0, -1.0, float("inf"), float("nan"), "16", None])
def test_an_alpha_that_is_none_is_refused(alpha):
    with pytest.raises(ModelError, match="alpha must be a number above 0"):
        check_adapter(BASE, lora.Adapter(random_adapter(BASE).weights, alpha), "theirs")


def test_adapters_reach_all_seven_matrices():
    assert {n.split(".")[2] for n, s in tensor_shapes(BASE).items() if len(s) == 2 and n.startswith("blk")} == set(MATRICES)
