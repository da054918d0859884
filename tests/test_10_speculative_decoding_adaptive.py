"""How many drafts: against a search over all choices, and what follows from acceptance, load and cost."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.costs.speculation import expected_tokens
from minillm.speculative.adaptive import PROBE, STALE, Adaptive, StepTimes, best_drafts


def measured(seconds, sizes=range(1, 65)):
    times = StepTimes()
    for n in sizes:
        times.add(n, seconds(n))
    return times


@given(
    st.lists(st.floats(0.05, 0.95), min_size=1, max_size=3),
    st.floats(0, 0.5),
    st.floats(0, 1),
    st.floats(0, 0.3),
)
def test_the_choice_is_the_best_of_all(alphas, bandwidth, arithmetic, cost):
    """The time of a step: a floor, and from some size on a line: the roofline."""
    times = measured(lambda n: 0.1 + bandwidth + max(0.0, arithmetic * (n - 4)))

    def rate(gammas):
        drafts = sum(gammas)
        tokens = sum(expected_tokens(alpha, gamma) for alpha, gamma in zip(alphas, gammas, strict=True))
        return tokens / (times(len(alphas) + drafts) + drafts * cost)

    best = max(map(rate, product(range(5), repeat=len(alphas))))
    assert rate(best_drafts(alphas, 4, times, cost)) == pytest.approx(best, rel=1e-9)


def test_more_acceptance_more_drafts_and_more_load_fewer():
    flat_then_steep = measured(lambda n: 1 + 0.3 * max(0, n - 8))
    assert [best_drafts([a], 8, flat_then_steep, 0.05)[0] for a in (0.02, 0.5, 0.9)] == sorted(
        best_drafts([a], 8, flat_then_steep, 0.05)[0] for a in (0.02, 0.5, 0.9)
    )
    by_batch = [best_drafts([0.7] * batch, 8, flat_then_steep, 0.05)[0] for batch in (1, 2, 4, 8, 16)]
    assert by_batch == sorted(by_batch, reverse=True) and by_batch[0] >= 4 and by_batch[-1] == 0
    linear = measured(lambda n: float(n))
    assert best_drafts([0.9] * 4, 8, linear, 0.0) == [0] * 4, "a token more costs a token more: nothing is free"


def test_a_text_that_copies_gets_drafts_and_its_neighbour_none():
    adaptive = Adaptive()
    for n in range(1, 20):
        adaptive.stepped(n, 1 + 0.1 * n)
    for _ in range(30):
        adaptive.verified("copies", 4, 4)
        adaptive.verified("new", 1, 0)
    copies, new = adaptive.most(["copies", "new"])
    assert copies >= 4 and new == 0


def test_a_text_without_drafts_is_probed_and_learns_again():
    adaptive = Adaptive()
    for n in range(1, 10):
        adaptive.stepped(n, 1 + 0.2 * n)
    for _ in range(40):
        adaptive.verified("a", 1, 0)
    asked = [adaptive.most(["a"])[0] for _ in range(3 * PROBE)]
    assert sum(asked) == 3 and set(asked) == {0, 1}
    for _ in range(20):
        adaptive.verified("a", 1, 1)
    assert adaptive.most(["a"])[0] > 1
    adaptive.forget("a")
    assert "a" not in adaptive.rates


def test_times_are_medians_with_lines_between_and_what_is_old_is_forgotten():
    times = StepTimes()
    assert times(5) == times(1), "nothing is known"
    for value in (1.0, 9.0, 1.0):
        times.add(1, value)
    times.add(5, 3.0)
    assert times(1) == 1 and times(5) == 3 and times(3) == 2 and times(50) == 3
    for _ in range(STALE + 1):
        times.add(1, 1.0)
    assert times(5) == 1, "it will be tried again"


@pytest.mark.parametrize("alpha", [0.1, 0.3, 0.5, 0.8, 0.95])
def test_it_finds_what_pays_by_doing(alpha):
    """A closed loop with known costs: after some steps the rate is that of the best fixed γ, within the price of looking."""

    def cost(n):
        return 1 + 0.15 * (n - 1)

    rng, adaptive, tokens, seconds = np.random.default_rng(0), Adaptive(), 0.0, 0.0
    for step in range(1000):
        (gamma,) = adaptive.most(["a"])
        kept = int(np.cumprod(rng.random(gamma) < alpha).sum())
        adaptive.stepped(1 + gamma, cost(1 + gamma))
        if gamma:
            adaptive.verified("a", min(kept + 1, gamma), kept)
        if step >= 100:
            tokens, seconds = tokens + kept + 1, seconds + cost(1 + gamma)
    best = max(expected_tokens(alpha, gamma) / cost(1 + gamma) for gamma in range(9))
    assert tokens / seconds > 0.93 * best
