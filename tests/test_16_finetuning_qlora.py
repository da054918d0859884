"""QLoRA: LoRA over a base in four bits. Its gradients are LoRA's on the dequantized weights, which exist one at a time."""

import weakref
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from lora_help import random_adapter
from test_16_finetuning_memory import SMOLLM2
from test_16_finetuning_model import SHAPES, batch_of, doubles

from minillm.errors import MiniLLMError, TrainingError
from minillm.model.config import ModelConfig
from minillm.model.lora import MATRICES
from minillm.quantization.nf4 import NF4Matrix
from minillm.training import lora, model
from minillm.training.checkpoint import State
from minillm.training.loop import fit
from minillm.training.optimizer import zeros_like
from minillm.training.qlora import HalfMatrix, base_nbytes, bits, quantize_base

SMALL = ModelConfig(
    n_layers=2, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=172, vocab_size=300, context_length=64, tied=True
)  # fmt: skip


def floats(config, seed=0):
    return {name: w.astype(np.float32) for name, w in doubles(config, seed).items()}


def dequantized(base):
    return {name: w if isinstance(w, np.ndarray) else w.dense() for name, w in base.items()}


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("table", ["nf4", "f16", "f32"])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_those_of_lora_on_the_dequantized_base_to_the_bit(shape, table, recompute):
    config = SHAPES[shape]
    base, adapter = quantize_base(floats(config), table), random_adapter(config)
    tokens, targets = batch_of(config, 3, 7)
    found = lora.loss_and_gradients(config, base, adapter.alpha, adapter.weights, tokens, targets, recompute=recompute)
    right = lora.loss_and_gradients(config, dequantized(base), adapter.alpha, adapter.weights, tokens, targets)
    assert found[0] == right[0] and found[1].keys() == right[1].keys() == adapter.weights.keys()
    assert all(np.array_equal(found[1][name], gradient) and gradient.any() for name, gradient in right[1].items())


@pytest.mark.parametrize("table", ["nf4", "f16", "f32"])
@pytest.mark.parametrize("shape", SHAPES)
def test_each_tensor_is_kept_as_promised_and_counted(shape, table):
    config, weights = SHAPES[shape], floats(SHAPES[shape])
    base = quantize_base(weights, table)
    kinds = {"nf4": NF4Matrix, "f16": HalfMatrix, "f32": np.ndarray}
    assert list(base) == list(weights)
    for name, kept in base.items():
        of_table = name in ("token_embd.weight", "output.weight")
        kind = kinds[table] if of_table else np.ndarray if weights[name].ndim == 1 else NF4Matrix
        assert type(kept) is kind and kept.shape == weights[name].shape, name
        assert (kept is weights[name]) == (kind is np.ndarray), "what stays in floats is shared"
        if kind is HalfMatrix:
            assert kept.nbytes == weights[name].nbytes / 2
            assert kept.dense().dtype == np.float32 and np.array_equal(kept.dense(), weights[name].astype(np.float16))
    assert base_nbytes(config, table) == sum(kept.nbytes for kept in base.values())


def test_the_bits_of_a_weight_are_counted_with_and_without_the_table():
    """A real model's matrices: 4.127. The model: by how the table is kept, and how much of it that is."""
    weights = model.parameters(replace(SMALL, d_model=256, n_heads=16, d_ff=704, vocab_size=2048))
    table, matrices = weights["token_embd.weight"].size, sum(w.size for n, w in weights.items() if w.ndim > 1 and n[:3] == "blk")
    vectors = sum(w.size for w in weights.values() if w.ndim == 1)
    for kind, width in (("nf4", 4.127), ("f16", 16), ("f32", 32)):
        base = quantize_base(weights, kind)
        assert bits(base, lambda name: name.endswith(("_q.weight", "_down.weight", "_gate.weight"))) < 4.2
        whole = (matrices * 4.127 + table * width + vectors * 32) / (matrices + table + vectors)
        assert bits(base) == pytest.approx(whole, rel=2e-3)
    assert bits(quantize_base(weights, "nf4")) < 4.2, "the whole model, norms included"


@pytest.mark.parametrize(("table", "found"), [("nf4", 4.134), ("f16", 6.634), ("f32", 10.001)])
def test_so_it_is_counted_for_smollm2_whose_table_is_a_fifth(table, found):
    assert SMOLLM2.parameters() == 134_515_008
    assert 8 * base_nbytes(SMOLLM2, table) / SMOLLM2.parameters() == pytest.approx(found, abs=0.001)


@pytest.mark.parametrize("recompute", [False, True])
def test_one_matrix_at_a_time_is_there_as_floats(monkeypatch, recompute):
    alive, most, made, dense = set(), [], [], NF4Matrix.dense

    def watched(self):
        array = dense(self)
        alive.add(id(self))
        weakref.finalize(array, alive.discard, id(self))
        most.append(len(alive))
        made.append(self)
        return array

    monkeypatch.setattr(NF4Matrix, "dense", watched)
    base, adapter = quantize_base(floats(SMALL), "nf4"), random_adapter(SMALL)
    lora.loss_and_gradients(SMALL, base, 3.0, adapter.weights, *batch_of(SMALL, 2, 5), recompute=recompute)
    assert max(most) == 1 and not alive
    for name, matrix in base.items():
        if isinstance(matrix, NF4Matrix):
            times = 3 if recompute or name == "token_embd.weight" else 2  # the table: looked up, and the head twice
            assert sum(each is matrix for each in made) == times, name


def test_the_loop_trains_it_and_leaves_the_codes(tmp_path):
    weights = {name: w / 5 if w.ndim > 1 else w for name, w in floats(SMALL).items()}
    base, adapter = quantize_base(weights), lora.fresh_adapter(SMALL, 4, 8.0, MATRICES)
    codes = {name: w.codes.copy() for name, w in base.items() if isinstance(w, NF4Matrix)}
    tokens = (np.arange(48).reshape(2, 24) * 7) % 40  # what comes next is always 7 further on
    targets = (tokens + 7) % 40
    run = SimpleNamespace(steps=60, micro_batches=1, evaluate_every=60, checkpoint_every=60)
    optimizer = SimpleNamespace(
        beta1=0.9, beta2=0.99, epsilon=1e-8, weight_decay=0.0, clip=1.0, learning_rate=0.02, floor=0.002, warmup=3
    )
    state = State(0, adapter.weights, zeros_like(adapter.weights), zeros_like(adapter.weights), {"epoch": 0, "next": 0})
    batches = SimpleNamespace(draw=lambda: (tokens, targets), restore=lambda at: None, state={"epoch": 0, "next": 0})
    losses = []
    held_out = partial(lora.loss, SMALL, base, adapter.alpha)
    fit(
        SimpleNamespace(run=run, optimizer=optimizer), state, batches,
        partial(lora.loss_and_gradients, SMALL, base, adapter.alpha), lambda w: held_out(w, tokens, targets),
        tmp_path / "checkpoint.npz", {}, losses.append,
    )  # fmt: skip
    assert losses[0].loss > 5 and losses[-1].loss < 0.2 * losses[0].loss
    assert all(np.array_equal(base[name].codes, kept) for name, kept in codes.items())
    merged = dequantized(lora.merge(base, adapter))
    assert all(merged[f"blk.1.{m}.weight"].dtype == np.float32 for m in MATRICES)
    assert model.loss(SMALL, merged, tokens, targets) == pytest.approx(losses[-1].held_out_loss, rel=1e-4)


@pytest.mark.parametrize(("table", "spoil", "told"), [
    ("f8", None, "nf4, f16, f32, found 'f8'"), (None, None, "found None"),
    ("f16", 1e5, "token_embd.weight: 16 bits hold weights up to 65,504, found 100,000"),
    ("f16", np.nan, "token_embd.weight: 16 bits .*found nan"), ("nf4", np.inf, "found 1 of"),
])  # fmt: skip
def test_what_cannot_be_kept_so_is_refused(table, spoil, told):
    weights = floats(SMALL)
    if spoil is not None:
        weights["token_embd.weight"][3, 5] = spoil
    with pytest.raises(MiniLLMError if table == "nf4" else TrainingError, match=told):
        quantize_base(weights, table)
    if spoil is None:
        with pytest.raises(TrainingError, match=told):
            base_nbytes(SMALL, table)
