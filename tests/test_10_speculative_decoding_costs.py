"""The formulas of speculation, against sums, searches and what the papers say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.costs.speculation import (
    acceptance_rate,
    best_gamma,
    check_cost,
    crossover_batch,
    expected_tokens,
    speculative_speedup,
)
from minillm.costs.time import ridge_batch
from minillm.model.presets import PRESETS

LLAMA, H100 = PRESETS["llama-3-8b"], (989e12, 3.35e12)


def test_acceptance_is_one_less_half_the_distance():
    rng = np.random.default_rng(0)
    for _ in range(50):
        p, q = rng.dirichlet(np.ones(7)), rng.dirichlet(np.ones(7))
        assert acceptance_rate(p, q) == pytest.approx(1 - abs(p - q).sum() / 2)
    assert acceptance_rate([1, 0], [1, 0]) == 1 and acceptance_rate([1, 0], [0, 1]) == 0


@given(st.floats(0, 0.99), st.integers(0, 12))
def test_expected_tokens_are_the_sum_over_where_it_stops(alpha, gamma):
    stops = sum((i + 1) * alpha**i * (1 - alpha) for i in range(gamma)) + (gamma + 1) * alpha**gamma
    assert expected_tokens(alpha, gamma) == pytest.approx(stops)


def test_published_speed_ups():
    """Leviathan et al.: a bigram draft, α about 0.2 and free, γ = 3: 1.25 times."""
    assert speculative_speedup(0.2, 3, 0) == pytest.approx(1.25, abs=0.005)
    assert expected_tokens(0.8, 4) == pytest.approx(3.36, abs=0.005)


@given(st.floats(0.01, 0.98), st.floats(0, 1), st.floats(0, 1))
def test_the_best_gamma_is_the_best(alpha, cost, extra):
    found = best_gamma(alpha, cost, extra, most=20)
    rates = [speculative_speedup(alpha, g, cost, 1 + g * extra) for g in range(21)]
    assert rates[found] == max(rates) and found == rates.index(max(rates))


def test_a_draft_as_dear_as_its_chance_never_pays():
    """The first draft brings α and costs c: it pays where α > c (Leviathan et al., corollary 3.9)."""
    assert best_gamma(0.5, 0.49) >= 1 and best_gamma(0.5, 0.51) == 0 and best_gamma(0.0, 0.0) == 0
    assert best_gamma(0.5, 0.2, 0.31) == 0, "what the check costs more counts as well"


def test_checks_are_free_below_the_ridge_and_cost_their_arithmetic_above():
    flops, bandwidth = H100
    assert check_cost(LLAMA, flops, bandwidth, 4, 1) == pytest.approx(1)
    ridge = ridge_batch(flops, bandwidth)
    assert check_cost(LLAMA, flops, bandwidth, 4, int(ridge / 5) - 10) == pytest.approx(1)
    assert check_cost(LLAMA, flops, bandwidth, 4, 4 * int(ridge)) == pytest.approx(5, rel=1e-3)
    assert 1 < check_cost(LLAMA, flops, bandwidth, 4, 256, context=1000) < check_cost(LLAMA, flops, bandwidth, 4, 256) < 5


@pytest.mark.parametrize("alpha", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("context", [0, 2000])
def test_the_crossover_is_the_first_batch_that_loses(alpha, context):
    flops, bandwidth = H100

    def gain(batch):
        return speculative_speedup(alpha, 4, 0.02, check_cost(LLAMA, flops, bandwidth, 4, batch, context))

    found = crossover_batch(LLAMA, flops, bandwidth, alpha, 4, 0.02, context, most=1000)
    slow = next((batch for batch in range(1, 1001) if gain(batch) < 1), 1001)
    assert found == slow
    assert context == 0 or found >= crossover_batch(LLAMA, flops, bandwidth, alpha, 4, 0.02, most=1000), "long contexts: later"
