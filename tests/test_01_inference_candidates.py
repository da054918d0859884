"""Fast sampling keeps exactly what the readable one keeps, ties and borders included, and sorts little."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minillm.errors import RequestError
from minillm.model import candidates, sampling
from minillm.model.params import SamplingParams

seeds = st.integers(0, 2**32 - 1)
VOCAB = 49_152
PS = [1e-12, 0.01, 0.1, 0.25, 1 / 3, 0.5, 0.75, 0.9, 0.95, 0.999, 1 - 1e-9, np.nextafter(1, 0)]


def kept(logits, params):
    """The ids that candidates.py would draw from."""
    ids, weights = candidates.kept(logits, params)
    return np.flatnonzero(weights) if ids is None else ids


def expected(logits, params):
    return np.flatnonzero(sampling.keep(logits.astype(np.float64), params) > -np.inf)


def check(logits, **knobs):
    params = SamplingParams(**{"temperature": 1.0, **knobs})
    np.testing.assert_array_equal(kept(logits, params), expected(logits, params), err_msg=str(knobs))


knobs = st.fixed_dictionaries(
    {"temperature": st.sampled_from([0.05, 0.7, 1.0, 3.0])},
    optional={
        "top_p": st.sampled_from(PS) | st.floats(1e-6, 1 - 1e-6),
        "top_k": st.sampled_from([1, 2, 3, 7, 40, 900, 5000]),
        "min_p": st.sampled_from([1e-6, 0.05, 0.5, 1.0]),
    },
)


@given(st.lists(st.sampled_from([0.0, 1.0, -1.0, 2.5, 2.5000002, -math.inf]), min_size=1, max_size=60), knobs)
@example([0.0] * 4, {"temperature": 1.0, "top_p": 0.5})
@example([0.0] * 10, {"temperature": 1.0, "top_p": 0.1, "top_k": 3})
def test_of_few_tokens_with_many_ties_the_same_are_kept(values, knobs):
    logits = np.array(values, np.float32)
    if np.isfinite(logits.max()):
        check(logits, **knobs)


@settings(max_examples=60)
@given(seeds, knobs, st.sampled_from([1600, 6000, 9217]), st.sampled_from([0.0, 0.5, 3.0]), st.sampled_from([None, 1, 8]))
def test_of_many_tokens_the_same_are_kept(seed, knobs, size, spread, levels):
    """levels: how many values there are in a unit, so that ties are many; spread 0: all are equal."""
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=size) * spread).astype(np.float32)
    logits[rng.integers(size, size=3)] += np.float32(4 * spread)
    if levels:
        logits = np.round(logits * levels) / np.float32(levels)
    check(logits, **knobs)


ROWS = {
    "flat": lambda rng: rng.normal(size=VOCAB),
    "equal": lambda rng: np.zeros(VOCAB),
    "peaked": lambda rng: 4 * rng.normal(size=VOCAB),
    "ties": lambda rng: np.round(rng.normal(size=VOCAB) * 4) / 4,
    "masked": lambda rng: np.where(rng.random(VOCAB) < 0.9, -np.inf, rng.normal(size=VOCAB)),
    "in order": lambda rng: np.linspace(5, -5, VOCAB),
}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 0.95, 0.999999])
def test_of_a_whole_vocabulary_the_same_are_kept(name, p):
    logits = ROWS[name](np.random.default_rng(3)).astype(np.float32)
    check(logits, top_p=p)
    check(logits, top_p=p, top_k=40, min_p=0.05, temperature=0.8)
    check(logits, top_p=p, min_p=0.01)


def test_a_flat_and_a_peaked_nucleus_are_found_without_the_reference_and_with_few_tokens_sorted(monkeypatch):
    """The guard hands over to sampling.py; if it always did, everything would be right and slow."""
    sorted_tokens = []
    crossing = candidates.crossing
    monkeypatch.setattr(candidates, "crossing", lambda some, *rest: (sorted_tokens.append(len(some)), crossing(some, *rest))[1])
    monkeypatch.setattr(candidates.sampling, "keep", None)
    for name, most in (("flat", 1000), ("peaked", candidates.FEW), ("masked", candidates.FEW)):
        logits = ROWS[name](np.random.default_rng(5)).astype(np.float32)
        ids = kept(logits, SamplingParams(temperature=1.0, top_p=0.8))
        assert len(ids) > 2 and 0 < sorted_tokens[-1] <= most, name


@pytest.mark.parametrize("seed", range(4))
def test_on_a_border_to_the_last_bit_the_same_are_kept(seed):
    """p is what the tokens before the k-th hold, or the next number: a sum in another order would often go wrong by a token."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=6000).astype(np.float32)
    probabilities = sampling.softmax(np.sort(logits.astype(np.float64) - logits.max())[::-1])
    before = np.cumsum(probabilities) - probabilities
    for k in rng.integers(1, 5900, 40):
        for p in (before[k], np.nextafter(before[k], 1)):
            check(logits, top_p=float(p))


def test_of_the_last_tail_the_same_are_kept():
    """What is before the last token is 1, but for the last bits of its sum; so is p."""
    for n in range(2, 80):
        check(np.array([0.0] * n + [-100.0], np.float32), top_p=float(np.nextafter(1, 0)))


def test_where_rounding_would_decide_the_reference_does(monkeypatch):
    asked, keep = [], sampling.keep
    monkeypatch.setattr(candidates.sampling, "keep", lambda *given: (asked.append(1), keep(*given))[1])
    logits = np.zeros(8, np.float32)
    assert kept(logits, SamplingParams(temperature=1.0, top_p=0.5)).tolist() == [0, 1, 2, 3] and asked
    asked.clear()
    assert kept(logits, SamplingParams(temperature=1.0, top_p=0.51)).tolist() == [0, 1, 2, 3, 4] and not asked


@given(seeds, knobs, st.sampled_from([5, 300, 6000]))
def test_the_same_random_number_draws_the_same_token(seed, knobs, size):
    """Up to the last bits of a sum: a draw within 1e-12 of a border is not made here."""
    logits, params = np.random.default_rng(seed).normal(size=size).astype(np.float32) * 3, SamplingParams(**knobs)
    cumulative = np.cumsum(sampling.distribution(logits, params))
    u = np.random.default_rng(seed).random() * cumulative[-1]
    if np.abs(cumulative - u).min() > 1e-12:
        slow = sampling.sample(logits, params, np.random.default_rng(seed))
        assert candidates.sample(logits, params, np.random.default_rng(seed)) == slow


@pytest.mark.parametrize("size", [3, 5000, VOCAB])
@pytest.mark.parametrize("u", [0.0, 0.5, np.nextafter(1.0, 0.0)])
def test_a_draw_is_of_a_token_with_weight(size, u):
    class Fixed:
        def random(self):
            return u

    weights = np.zeros(size)
    weights[[1, size - 2]] = 0.25, 0.75 if size > 3 else 0.25
    assert weights[candidates.draw(weights, Fixed())] > 0


@given(st.lists(st.sampled_from([0.0, 1.0, -3.0]) | st.floats(-5, 5), min_size=1, max_size=3000), st.data())
def test_the_floor_is_reached_by_the_k_largest(values, data):
    values, k = np.array(values), data.draw(st.integers(1, len(values)))
    assert candidates.kth_floor(values, k) <= np.sort(values)[-k]
    assert np.count_nonzero(values >= candidates.kth_floor(values, k)) >= k


@pytest.mark.parametrize("temperature", [1e-320, 1e-300, 1e6])
def test_any_temperature_draws_a_token(temperature):
    logits = np.array([1.0, 30.0, -20.0, 29.0], np.float32)
    with np.errstate(over="ignore"):
        token = candidates.sample(logits, SamplingParams(temperature=temperature, top_p=0.9), np.random.default_rng(0))
    assert token == 1 or temperature == 1e6


@pytest.mark.parametrize("params", [{}, {"top_k": 2}, {"top_p": 0.5}, {"min_p": 0.1}, {"temperature": 0}], ids=str)
def test_logits_that_are_no_numbers_are_refused_as_by_the_reference(params):
    for bad in (np.nan, np.inf):
        with pytest.raises(RequestError, match="NaN or infinity"):
            candidates.sample(np.array([0.0, bad, 1.0], np.float32), SamplingParams(**{"temperature": 1.0, **params}), None)
