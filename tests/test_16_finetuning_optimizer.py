"""AdamW beside a plain loop and beside torch, the schedule at its edges, clipping."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.training.optimizer import CHUNK, adamw, clip, zeros_like
from minillm.training.schedule import learning_rate

RECORDED = json.loads((Path(__file__).parent / "golden" / "adamw.json").read_text())
SETTINGS = {"beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "weight_decay": 0.1}


def plain_adamw(w, gradients, rates, decays, beta1, beta2, epsilon, weight_decay):
    """One weight, in Python's floats, straight from the paper's algorithm 2."""
    m = v = 0.0
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        old = w
        w = w - rate * (m / (1 - beta1**t)) / (math.sqrt(v / (1 - beta2**t)) + epsilon)
        if decays:
            w -= rate * weight_decay * old
    return w


@pytest.mark.parametrize("shape", [(1,), (1, 1), (2, 3), (CHUNK + 1,), (2, CHUNK)])
def test_adamw_is_the_plain_loop_on_every_weight(shape):
    draw = np.random.default_rng(3).standard_normal
    start, gradients, rates = draw(shape), [draw(shape) * 10.0 ** (k - 3) for k in range(6)], [0.1, 0.01, 0.2, 0.0, 0.05, 0.3]
    parameters = {"x": start.copy()}
    first, second = zeros_like(parameters), zeros_like(parameters)
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        given_ = g.copy()
        adamw(parameters, {"x": given_}, first, second, t, rate, **SETTINGS)
        assert np.array_equal(given_, g), "the gradients were changed"
    flat = [g.ravel() for g in gradients]
    for i in {0, start.size // 2, start.size - 1, min(CHUNK, start.size - 1), min(CHUNK, start.size) - 1}:
        expected = plain_adamw(float(start.ravel()[i]), [float(g[i]) for g in flat], rates, start.ndim > 1, **SETTINGS)
        assert parameters["x"].ravel()[i] == pytest.approx(expected, rel=1e-12), f"weight {i} of {shape}"


@pytest.mark.parametrize(("dtype", "within"), [(np.float64, 1e-12), (np.float32, 2e-6)])
def test_adamw_makes_the_steps_that_torch_makes(dtype, within):
    settings = {k: v for k, v in RECORDED["settings"].items() if k != "clip"}
    parameters = {name: np.array(values, dtype) for name, values in RECORDED["start"].items()}
    first, second = zeros_like(parameters), zeros_like(parameters)
    for t, rate in enumerate(RECORDED["rates"], 1):
        gradients = {name: np.array(values, dtype) for name, values in RECORDED["gradients"][t - 1].items()}
        adamw(parameters, gradients, first, second, t, rate, **settings)
        for name, array in parameters.items():
            assert array.dtype == dtype
            np.testing.assert_allclose(array, RECORDED["after"][t - 1][name], rtol=0, atol=within, err_msg=f"{name}, step {t}")


def test_a_weight_that_has_no_gradient_decays_by_the_same_share_whatever_its_size():
    parameters = {"w": np.array([[1e-3, 1.0, 1e3]]), "norm": np.array([1e-3, 1.0, 1e3])}
    before = {name: array.copy() for name, array in parameters.items()}
    adamw(parameters, zeros_like(parameters), zeros_like(parameters), zeros_like(parameters), 1, 0.5, **SETTINGS)
    np.testing.assert_allclose(parameters["w"], before["w"] * 0.95, rtol=1e-15)
    np.testing.assert_array_equal(parameters["norm"], before["norm"])


def test_a_view_that_would_be_copied_is_refused():
    parameters = {"w": np.ones((4, 3)).T}
    with pytest.raises(ValueError, match="contiguous"):
        adamw(parameters, zeros_like(parameters), zeros_like(parameters), zeros_like(parameters), 1, 0.1, **SETTINGS)


def test_clipping_is_torch_s():
    for recorded, norm, clipped in zip(RECORDED["gradients"], RECORDED["norms"], RECORDED["clipped"], strict=True):
        gradients = {name: np.array(values) for name, values in recorded.items()}
        assert clip(gradients, RECORDED["settings"]["clip"]) == pytest.approx(norm, rel=1e-12)
        for name, array in gradients.items():
            np.testing.assert_allclose(array, clipped[name], rtol=2e-6)  # torch adds 1e-6 to the norm it divides by


def test_the_norm_is_over_all_tensors_and_does_not_overflow():
    gradients = {"a": np.full((2, 2), 3e25, np.float32), "b": np.full(5, 4e25, np.float32)}
    expected = math.sqrt(4 * 3e25**2 + 5 * 4e25**2)
    assert clip(gradients, 1.0) == pytest.approx(expected, rel=1e-6)
    assert math.sqrt(sum(float((g.astype(float) ** 2).sum()) for g in gradients.values())) == pytest.approx(1.0, rel=1e-6)
    small = {"a": np.array([0.3, 0.4], np.float32)}
    clip(small, 0.5000001)
    assert small["a"].tolist() == np.array([0.3, 0.4], np.float32).tolist(), "a norm within the limit changes nothing"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_norm_that_is_not_finite_is_said_and_scales_nothing(bad):
    gradients = {"a": np.array([1.0, bad]), "b": np.array([2.0])}
    assert not math.isfinite(clip(gradients, 1e-3))
    assert gradients["b"] == [2.0]


RUN = {"peak": 3e-3, "floor": 3e-4, "warmup": 10, "steps": 110}


def test_the_schedule_at_its_edges():
    assert learning_rate(1, **RUN) == pytest.approx(3e-4)
    assert learning_rate(5, **RUN) == pytest.approx(1.5e-3)
    assert learning_rate(10, **RUN) == pytest.approx(3e-3)
    assert learning_rate(60, **RUN) == pytest.approx((3e-3 + 3e-4) / 2)
    assert learning_rate(35, **RUN) == pytest.approx(3e-4 + 2.7e-3 * (1 + math.sqrt(0.5)) / 2)
    assert learning_rate(110, **RUN) == learning_rate(111, **RUN) == 3e-4


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_no_warm_up_or_nothing_but_warm_up_divides_by_nothing(steps):
    assert learning_rate(steps, peak=1.0, floor=0.25, warmup=0, steps=steps) == 0.25
    assert learning_rate(steps, peak=1.0, floor=0.25, warmup=steps, steps=steps) == 1.0


@given(st.integers(0, 20), st.integers(1, 40), st.floats(1e-6, 1), st.floats(0, 1))
def test_the_rate_rises_then_falls_and_stays_between_floor_and_peak(warmup, cosine, peak, share):
    shape = {"peak": peak, "floor": peak * share, "warmup": warmup, "steps": warmup + cosine}
    rates = [learning_rate(t, **shape) for t in range(1, warmup + cosine + 1)]
    up, down = rates[:warmup], rates[max(warmup - 1, 0) :]
    assert up == sorted(up) and down == sorted(down, reverse=True)
    assert all(0 <= r <= peak for r in rates) and all(r >= peak * share * (1 - 1e-12) for r in down)
