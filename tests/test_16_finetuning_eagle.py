"""The EAGLE head: its gradients are the differences', it drafts what it was trained to say, and it changes no text."""

from dataclasses import replace

import numpy as np
import pytest

from minillm.layers import softmax
from minillm.model.config import ModelConfig
from minillm.training import eagle

SMALL = ModelConfig(
    n_layers=3, d_model=6, n_heads=4, n_kv_heads=2, d_head=4, d_ff=5, vocab_size=11, context_length=99, tied=True
)  # fmt: skip


def doubles(config, seed=0):  # -> float64 parameters, with norms that are not 1
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape) * 0.6 + ("norm" in name) for name, shape in eagle.head_shapes(config).items()}


def example(config, batch, n, seed=1):  # -> head, features, embedded, wanted, counted
    """Distances on both sides of 1, where smooth L1 changes its formula; a position that does not count, unless it is alone."""
    rng = np.random.default_rng(seed)
    features, embedded, wanted = rng.standard_normal((3, batch, n, config.d_model)) * 2
    counted = rng.random((batch, n)) < 0.7
    counted[0, 0] = True
    return rng.standard_normal((config.vocab_size, config.d_model)), features, embedded, wanted, counted


@pytest.mark.parametrize("weight", [0.0, 0.7])
@pytest.mark.parametrize("batch, n", [(1, 1), (2, 5)])
@pytest.mark.parametrize("halves", [False, True])
def test_every_gradient_is_that_of_differences(weight, batch, n, halves):
    config = replace(eagle.head_config(SMALL), rope_interleaved=not halves)
    weights, given = doubles(config), example(config, batch, n)
    value, found = eagle.loss_and_gradients(config, weights, *given, weight)
    assert np.isfinite(value) and list(found) == list(weights)
    for name, w in weights.items():
        right = np.zeros(w.shape)
        for index in np.ndindex(w.shape):
            at = w[index]
            w[index] = at + 1e-5
            up = eagle.loss_and_gradients(config, weights, *given, weight)[0]
            w[index] = at - 1e-5
            right[index] = (up - eagle.loss_and_gradients(config, weights, *given, weight)[0]) / 2e-5
            w[index] = at
        error = np.linalg.norm(found[name] - right) / max(np.linalg.norm(right), 1e-3)
        assert error < 1e-6, f"{name}: relative error {error:.3g}"


def test_the_loss_is_distance_and_divergence_of_the_positions_that_count():
    config = eagle.head_config(SMALL)
    weights, (head, features, embedded, wanted, counted) = doubles(config), example(config, 2, 5)
    found = eagle.forward(config, weights, features, embedded)[0].reshape(wanted.shape)
    total = []
    for b, t in np.argwhere(counted):
        e = abs(found[b, t] - wanted[b, t])
        p, q = (softmax(head @ v) for v in (wanted[b, t], found[b, t]))
        total.append(np.mean([x * x / 2 if x < 1 else x - 0.5 for x in e]) + 0.7 * sum(p * np.log(p / q)))
    value, _ = eagle.loss_and_gradients(config, weights, head, features, embedded, wanted, counted, 0.7)
    assert value == pytest.approx(np.mean(total), rel=1e-12)
    assert eagle.distillation(wanted[0], wanted[0], head, 1.0)[0] == pytest.approx(0, abs=1e-12)


def test_the_rows_of_logits_may_come_in_any_portions(monkeypatch):
    given = example(SMALL, 3, 5)
    found, wanted = given[1].reshape(15, -1), given[3].reshape(15, -1)
    value, gradient = eagle.distillation(found, wanted, given[0], 0.5)
    monkeypatch.setattr(eagle, "ROWS", 4)
    other, others = eagle.distillation(found, wanted, given[0], 0.5)
    assert other == pytest.approx(value, rel=1e-12) and np.allclose(gradient, others, rtol=0, atol=1e-15)


def test_a_head_sees_no_later_position_and_before_training_says_that_nothing_changes():
    config = eagle.head_config(replace(SMALL, d_model=32))
    weights = eagle.head_parameters(config)
    rng = np.random.default_rng(3)
    features, embedded = rng.standard_normal((2, 2, 7, 32)).astype(np.float32)
    whole = eagle.forward(config, weights, features, embedded * 0.1)[0].reshape(features.shape)
    part = eagle.forward(config, weights, features[:, :4], embedded[:, :4] * 0.1)[0].reshape(2, 4, 32)
    assert np.allclose(whole[:, :4], part, atol=1e-5)
    correlation = np.corrcoef(whole.ravel(), features.ravel())[0, 1]
    assert correlation > 0.9, correlation


def test_own_features_are_the_heads_guesses_one_position_late():
    config = eagle.head_config(SMALL)
    weights, (_, features, embedded, _, _) = doubles(config), example(config, 2, 5)
    where = np.random.default_rng(5).random((2, 5)) < 0.5
    where[0, 0] = where[1, 3] = True
    mixed = eagle.own_features(config, weights, features, embedded, where)
    guessed = eagle.forward(config, weights, features, embedded)[0].reshape(features.shape)
    for b, t in np.ndindex(2, 5):
        right = guessed[b, t - 1] if where[b, t] and t > 0 else features[b, t]
        assert np.array_equal(mixed[b, t], right), (b, t)


def test_the_short_vocabulary_is_what_a_text_uses_and_then_the_lowest_ids():
    ids = [[7, 9, 9], [7, 9, 2]]
    assert eagle.short_vocabulary(ids, 2, 11).tolist() == [7, 9]
    found = eagle.short_vocabulary(ids, 5, 11)
    assert found.tolist() == [0, 1, 2, 7, 9] and found.dtype == np.int32
    assert eagle.short_vocabulary(ids, 11, 11).tolist() == list(range(11))
