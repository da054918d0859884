"""The whole model: its loss is the engine's, its gradients are the differences' and torch's, recomputed or not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from differences import EACH, check_gradients
from golden import gradient_models

from minillm.errors import MiniLLMError
from minillm.model.config import ModelConfig, RopeScaling
from minillm.model.random_model import random_model, random_tensor, tensor_shapes
from minillm.model.transformer import Segment
from minillm.training.model import logits, loss, loss_and_gradients, parameters

BASE = ModelConfig(
    n_layers=2, d_model=5, n_heads=2, n_kv_heads=2, d_head=4, d_ff=3, vocab_size=7, context_length=300, tied=True
)  # fmt: skip
SHAPES = {
    "tied": BASE,
    "untied, by halves": replace(BASE, tied=False, rope_interleaved=False),
    "groups of 2": replace(BASE, n_heads=4, rope_base=30.0, norm_eps=0.1),
    "groups of 3, untied": replace(BASE, n_heads=6, d_head=2, tied=False),
    "one KV head, one layer": replace(BASE, n_layers=1, n_heads=3, n_kv_heads=1),
    "biases, by halves (Qwen2)": replace(BASE, n_heads=4, qkv_bias=True, rope_interleaved=False),
    "normed q and k (Qwen3)": replace(BASE, n_kv_heads=1, qk_norm=True, rope_interleaved=False),
    "sharpened": replace(BASE, n_layers=1, rope_scaling=RopeScaling("yarn", 4.0, original_context=3)),
    "stretched": replace(BASE, n_layers=1, rope_scaling=RopeScaling("linear", 3.0)),
}


def doubles(config, seed=0):  # -> float64 parameters, with norms and biases that are not 1 and 0
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape) * 0.6 + ("norm" in name) for name, shape in tensor_shapes(config).items()}


def batch_of(config, batch, length, seed=0):  # -> tokens, targets with some ignored
    rng = np.random.default_rng(seed)
    tokens, targets = rng.integers(0, config.vocab_size, (2, batch, length))
    targets[rng.random(targets.shape) < 0.2] = -1
    targets[0, 0] = 0  # at least one counts
    return tokens, targets


def error(found, right):  # -> relative to the length of right
    return np.linalg.norm(np.asarray(found, np.float64) - right) / max(np.linalg.norm(right), 1e-3)


@EACH
@pytest.mark.parametrize("length", [1, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_gradient_is_that_of_differences(shape, length, each):
    config = SHAPES[shape]
    weights, (tokens, targets) = doubles(config), batch_of(config, 2, length)
    value, found = loss_and_gradients(config, weights, tokens, targets)
    assert value == loss(config, weights, tokens, targets)
    assert list(found) == list(weights) and all(found[n].shape == w.shape for n, w in weights.items())
    check_gradients(lambda: loss(config, weights, tokens, targets), weights, found, each)


@pytest.mark.parametrize("name", ["blk.1.attn_k.weight", "blk.0.ffn_norm.weight"])
def test_four_directions_see_one_entry_that_is_off(name):
    weights, (tokens, targets) = doubles(BASE), batch_of(BASE, 2, 4)
    _, found = loss_and_gradients(BASE, weights, tokens, targets)
    found[name].reshape(-1)[-1] += 1e-4 * np.linalg.norm(found[name])
    with pytest.raises(AssertionError, match=f"{name}: relative error"):
        check_gradients(lambda: loss(BASE, weights, tokens, targets), weights, found, each=False)


@pytest.mark.parametrize("case", gradient_models.CASES)
@pytest.mark.parametrize("recompute", [False, True])
def test_loss_and_gradients_are_those_recorded_from_torch(case, recompute):
    recorded = np.load(Path(gradient_models.__file__).with_name("gradients.npz"))
    weights, config = gradient_models.weights(case), ModelConfig(**gradient_models.shape(case))
    value, found = loss_and_gradients(config, weights, *gradient_models.batch(case), recompute=recompute)
    assert value == pytest.approx(float(recorded[f"{case}/loss"]), rel=1e-5)
    assert set(found) == {key.split("/")[1] for key in recorded if key.startswith(f"{case}/")} - {"loss"}
    for name, gradient in found.items():
        assert gradient.dtype == np.float32
        assert error(gradient, recorded[f"{case}/{name}"].astype(np.float64)) < 1e-4, name


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_recomputed_or_run_again_the_bits_are_the_same_and_the_weights_untouched(dtype):
    config = SHAPES["biases, by halves (Qwen2)"]
    weights = {name: w.astype(dtype) for name, w in doubles(config).items()}
    before = {name: w.copy() for name, w in weights.items()}
    tokens, targets = batch_of(config, 3, 70)
    kept = tokens.copy(), targets.copy()
    first = loss_and_gradients(config, weights, tokens, targets)
    for recompute in (False, True):
        value, found = loss_and_gradients(config, weights, tokens, targets, recompute=recompute)
        assert value == first[0] and all((found[name] == first[1][name]).all() for name in weights)
        assert all(found[name].dtype == dtype for name in weights)
    assert all((weights[name] == before[name]).all() for name in weights)
    assert (tokens == kept[0]).all() and (targets == kept[1]).all()


def test_recomputation_keeps_less():
    import tracemalloc

    config = replace(BASE, n_layers=12, d_model=16, d_ff=48)
    tokens, targets = batch_of(config, 4, 64)
    weights, peaks = parameters(config, 0), []
    for recompute in (False, True):
        tracemalloc.start()
        loss_and_gradients(config, weights, tokens, targets, recompute=recompute)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 0.4 * peaks[0], peaks


def test_sequences_of_unequal_length_are_padded_and_the_padding_counts_for_nothing():
    config = SHAPES["groups of 2"]
    weights, (tokens, targets) = doubles(config), batch_of(config, 2, 9)
    lengths = (9, 4)
    targets[1, 4:] = -1
    whole = loss_and_gradients(config, weights, tokens, targets)
    tokens[1, 4:] = 3  # other padding
    again = loss_and_gradients(config, weights, tokens, targets)
    alone = [loss_and_gradients(config, weights, tokens[b : b + 1, :n], targets[b : b + 1, :n]) for b, n in enumerate(lengths)]
    shares = [np.count_nonzero(targets[b] != -1) / np.count_nonzero(targets != -1) for b in range(2)]
    assert whole[0] == pytest.approx(shares[0] * alone[0][0] + shares[1] * alone[1][0], rel=1e-12)
    for name in weights:
        assert error(again[1][name], whole[1][name]) < 1e-12, name
        assert error(shares[0] * alone[0][1][name] + shares[1] * alone[1][1][name], whole[1][name]) < 1e-12, name


@pytest.mark.parametrize("shape", SHAPES)
def test_the_logits_are_those_of_the_engine(shape):
    config = replace(SHAPES[shape], vocab_size=259, d_model=20, d_ff=24)
    model, _ = random_model(config, seed=3, backend="numpy")
    weights = {name: random_tensor(name, size, 3) for name, size in tensor_shapes(config).items()}
    tokens, _ = batch_of(config, 2, 67)
    right = np.concatenate(model.forward([Segment(t, 0, model.new_cache(), "all") for t in tokens]))
    found = logits(config, weights, tokens)
    assert found.dtype == np.float32 and abs(found - right).max() <= 1e-5 * abs(right).max()


@pytest.mark.parametrize("shape", SHAPES)
def test_weights_before_training_know_nothing_and_depend_on_the_seed_alone(shape):
    config = replace(SHAPES[shape], vocab_size=50, d_model=32, d_ff=40, n_layers=8)
    made = parameters(config, 1)
    assert {name: w.shape for name, w in made.items()} == tensor_shapes(config)
    assert all(w.dtype == np.float32 for w in made.values())
    assert all((w == parameters(config, 1)[name]).all() for name, w in made.items())
    other = parameters(config, 2)
    for name, w in made.items():
        if w.ndim == 2:
            assert (w != other[name]).any()
            narrow = "_output" in name or "_down" in name
            share = 1 / 4 if narrow else {"token_embd.weight": 32**0.5, "output.weight": 0.1}.get(name, 1)
            assert w.std() == pytest.approx(share / w.shape[1] ** 0.5, rel=0.15), name
        else:
            last = name == "output_norm.weight" and config.tied
            assert w == pytest.approx(0 if "bias" in name else 0.1 / 32**0.5 if last else 1), name
    tokens, targets = batch_of(config, 2, 30)
    assert loss(config, made, tokens, targets) == pytest.approx(np.log(50), rel=0.02)


def test_steps_against_the_gradient_learn_a_batch_by_heart():
    config = replace(BASE, d_model=16, d_ff=24, n_heads=4)
    weights, (tokens, targets) = parameters(config, 0), batch_of(config, 2, 12)
    first = loss(config, weights, tokens, targets)
    for _ in range(150):
        _, gradients = loss_and_gradients(config, weights, tokens, targets)
        length = np.sqrt(sum(float((g * g).sum()) for g in gradients.values()))
        for name, g in gradients.items():
            weights[name] -= np.float32(0.5 / max(length, 1.0)) * g
    assert loss(config, weights, tokens, targets) < 0.2 * first


@pytest.mark.parametrize(
    ("tokens", "targets", "words"),
    [
        ([1, 2], [2, 3], r"one shape \(batch, length\), found \(2,\) and \(2,\)"),
        ([[1, 2]], [[2, 3, 4]], r"found \(1, 2\) and \(1, 3\)"),
        ([[]], [[]], r"found \(1, 0\)"),
        ([[1, 7]], [[2, 3]], "tokens must be 0 to 6, found 1 to 7"),
        ([[-1, 2]], [[2, 3]], "tokens must be 0 to 6, found -1 to 2"),
        ([[1, 2]], [[2, 7]], "targets must be -1 to 6, found 2 to 7"),
        ([[1, 2]], [[-2, 3]], "targets must be -1 to 6, found -2 to 3"),
        ([[1, 2]], [[-1, -1]], "at least 1 target, found 2 and all of them -1"),
        ([[1] * 301], [[1] * 301], "sequences of 301 tokens do not fit the context of 300"),
    ],
)
@pytest.mark.parametrize("run", [loss, loss_and_gradients])
def test_what_cannot_be_learnt_is_refused(run, tokens, targets, words):
    with pytest.raises(MiniLLMError, match=words):
        run(BASE, parameters(BASE, 0), tokens, targets)
