"""Tokens drawn for a whole step are those that each row would draw alone, and what the backend counts for it is right."""

import math

import numpy as np
import pytest
from engine_help import Spoiled, small
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm.backends import get_backend
from minillm.backends.ops import BLOCK_TOKENS
from minillm.engine.engine import Engine
from minillm.errors import RequestError
from minillm.model import candidates, draws, sampling
from minillm.model.params import SamplingParams

NUMBA = get_backend("numba")
WAYS = [
    {},
    {"temperature": 0.3},
    {"top_p": 0.95},
    {"top_p": 0.5, "temperature": 2.0},
    {"top_p": 0.999999},
    {"top_k": 40},
    {"top_k": 1},
    {"top_k": 3, "top_p": 0.9},
    {"top_k": 100, "top_p": 0.9, "min_p": 0.02},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"top_p": 0.9, "min_p": 0.01},
    {"top_k": 10**6, "top_p": 0.8},
]
SHAPES = {
    "flat": lambda rng, n: rng.normal(size=n),
    "equal": lambda rng, n: np.zeros(n),
    "peaked": lambda rng, n: 5 * rng.normal(size=n),
    "ties": lambda rng, n: np.round(rng.normal(size=n) * 4) / 4,
    "masked": lambda rng, n: np.where(rng.random(n) < 0.9, -np.inf, rng.normal(size=n)),
    "one": lambda rng, n: np.where(np.arange(n) == n // 3, 3.0, -np.inf),
    "rising": lambda rng, n: np.linspace(-8, 8, n),
}


def draw_all(rows, params, rngs, ops=NUMBA):
    return draws.draw_all(rows, rows, params, rngs, ops)


class Told:
    """A generator that gives one number, and counts how often it was asked."""

    def __init__(self, u):
        self.u, self.asked = u, 0

    def random(self):
        self.asked += 1
        return self.u


def params_of(way):
    return SamplingParams(**{"temperature": 1.0, **way})


def exact_sums(logits, temperature):  # float64 loops over blocks
    best = max(map(float, logits))
    return [
        math.fsum(math.exp((float(x) - best) / temperature) for x in logits[i : i + BLOCK_TOKENS])
        for i in range(0, len(logits), BLOCK_TOKENS)
    ]


@pytest.mark.parametrize("blocks", [1, 2, 63, 65, 129])
def test_the_backend_finds_maxima_sums_and_counts(blocks):
    rng, n = np.random.default_rng(blocks), blocks * BLOCK_TOKENS
    rows = np.float32([make(rng, n) for make in SHAPES.values()])
    temperature, top_p = np.linspace(0.4, 2, len(rows)), np.linspace(0.2, 0.99, len(rows))
    maxima, sums, widths, counts = NUMBA.block_sums(rows, temperature, top_p)
    shaped = rows.reshape(len(rows), blocks, BLOCK_TOKENS)
    lowest = np.float32(-3e38)
    np.testing.assert_array_equal(maxima, np.maximum(shaped.max(axis=2), lowest))
    for row, t, found in zip(rows, temperature, sums, strict=True):
        np.testing.assert_allclose(found, exact_sums(row, t), rtol=1e-12, atol=1e-300)
    for row, t, p, width, found in zip(rows, temperature, top_p, widths, counts, strict=True):
        if width:
            depth = (row.max() - row) * np.float32(1 / width)
            assert found.tolist() == np.bincount(depth[depth < len(found)].astype(int), minlength=len(found)).tolist()
            total = sum(exact_sums(row, t))
            below = math.fsum(math.exp((float(x) - float(row.max())) / t) for x in row[depth >= len(found)])
            assert below <= (1 - p) * total * (1 + 1e-5), "what lies below the counts cannot be in the nucleus"


def test_rows_that_want_no_sums_have_none_and_rows_with_no_numbers_are_told():
    rows = np.zeros((6, 128), np.float32)
    rows[1, 5], rows[2, 70], rows[3], rows[4, 3] = np.nan, np.inf, -np.inf, -np.inf
    for temperature in (0.0, 1.0):
        _, sums, widths, _ = NUMBA.block_sums(rows, np.full(6, temperature), np.full(6, 0.9))
        assert np.isnan(sums.sum(axis=1)).tolist() == [False, True, True, True, False, False]
        assert temperature or not (sums[[0, 4, 5]].any() or widths.any())


@pytest.mark.parametrize("vocab", [64, 1600, 6016, 49_152])
@pytest.mark.parametrize("shape", SHAPES)
def test_all_rows_together_draw_what_each_draws_alone(shape, vocab):
    rng = np.random.default_rng(vocab)
    rows = np.float32([SHAPES[shape](rng, vocab) for _ in WAYS])
    params = [params_of(way) for way in WAYS]
    mine, alone = ([np.random.default_rng(i) for i in range(len(WAYS))] for _ in range(2))
    found = draw_all(rows, params, mine)
    for i, token in enumerate(found):
        if token is None:
            assert mine[i].bit_generator.state == np.random.default_rng(i).bit_generator.state, "a number was drawn for nothing"
        else:
            assert token == candidates.sample(rows[i], params[i], alone[i]), WAYS[i]
            assert mine[i].bit_generator.state == alone[i].bit_generator.state, "each draw takes one number"
    if shape in ("peaked", "rising"):
        left = [way for way, token in zip(WAYS, found, strict=True) if token is None]
        assert left in ([], [{"top_p": 0.999999}]), "what is ordinary is drawn here"


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([128, 640, 5120]),
    st.sampled_from([0.0, 0.5, 3.0]),
    st.sampled_from([None, 1, 8]),
    st.lists(
        st.fixed_dictionaries(
            {"temperature": st.sampled_from([0.05, 0.7, 1.0, 3.0])},
            optional={
                "top_p": st.sampled_from([1e-12, 0.25, 0.5, 0.9, 1 - 1e-9]) | st.floats(1e-6, 1 - 1e-6),
                "top_k": st.sampled_from([1, 2, 7, 40, 900, 5000]),
                "min_p": st.sampled_from([1e-6, 0.05, 0.5, 1.0]),
            },
        ),
        min_size=1,
        max_size=6,
    ),
    st.sampled_from([0.0, 0.3, 0.999, float(np.nextafter(1.0, 0.0))]),
)
def test_at_any_number_the_readable_reference_draws_the_same(seed, vocab, spread, levels, knobs, u):
    """But where u is within 1e-9 of a border: sums in another order differ in their last bits."""
    rng = np.random.default_rng(seed)
    rows = (rng.normal(size=(len(knobs), vocab)) * spread).astype(np.float32)
    if levels:
        rows = np.round(rows * levels) / np.float32(levels)
    params, told = [SamplingParams(**own) for own in knobs], [Told(u) for _ in knobs]
    for row, own, token, told_u in zip(rows, params, draw_all(rows, params, told), told, strict=True):
        assert told_u.asked == (token is not None)
        cumulative = np.cumsum(sampling.distribution(row, own))
        if token is not None and np.abs(cumulative - u * cumulative[-1]).min() > 1e-9:
            assert token == sampling.sample(row, own, Told(u))
        assert token is None or sampling.distribution(row, own)[token] > 0


def test_a_row_draws_the_same_alone_and_among_others():
    rows = np.float32([SHAPES["peaked"](np.random.default_rng(i), 6016) for i in range(9)])
    params = [params_of(WAYS[i % len(WAYS)]) for i in range(9)]
    together = draw_all(rows, params, [np.random.default_rng(i) for i in range(9)])
    alone = [draw_all(rows[i : i + 1], params[i : i + 1], [np.random.default_rng(i)])[0] for i in range(9)]
    assert together == alone


def test_what_cannot_be_drawn_here_is_left_and_no_number_is_spent():
    bad = np.zeros((3, 128), np.float32)
    bad[0, 3], bad[1, 3], bad[2] = np.nan, np.inf, -np.inf
    for way in WAYS:
        told = [Told(0.5) for _ in bad]
        assert draw_all(bad, [params_of(way)] * 3, told) == [None] * 3 and not any(t.asked for t in told)
    odd = np.zeros((2, 100), np.float32)  # no whole blocks
    assert draw_all(odd, [params_of({})] * 2, [None] * 2) == [None] * 2
    assert draw_all(bad, [params_of({})] * 3, [None] * 3, get_backend("numpy")) == [None] * 3
    assert draw_all(bad[:0], [], []) == []


@pytest.mark.parametrize("temperature", [1e-320, 1e-300, 1e300])
def test_any_temperature_draws_a_token_or_leaves_it(temperature):
    rows = np.float32([np.linspace(-3, 3, 128)])
    for way in WAYS:
        (token,) = draw_all(rows, [SamplingParams(**{**way, "temperature": temperature})], [Told(0.25)])
        assert token is None or temperature > 1 or token == 127


def test_the_engine_draws_a_batch_in_one_call_and_answers_as_alone(monkeypatch):
    """Greedy, penalized and sampled requests side by side: only plain draws are made together; texts are as ever."""
    llm = small("numba")
    asked = [
        SamplingParams(max_tokens=5, temperature=0.9, top_p=0.9, seed=1, ignore_eos=True),
        SamplingParams(max_tokens=5, ignore_eos=True),
        SamplingParams(max_tokens=5, temperature=0.7, top_k=9, seed=2, ignore_eos=True),
        SamplingParams(max_tokens=5, temperature=0.7, presence_penalty=1, seed=3, ignore_eos=True),
        SamplingParams(max_tokens=5, temperature=0.7, logprobs=2, seed=4, ignore_eos=True),
        SamplingParams(max_tokens=5, temperature=1.2, seed=5, ignore_eos=True),
    ]
    prompts = [[5 + i, 6, 7] for i in range(len(asked))]
    alone = [Engine(llm).generate([prompt], own)[0][0].token_ids for prompt, own in zip(prompts, asked, strict=True)]
    sizes = []
    choose = draws.draw_all

    def counted(logits, host, params, rngs, ops):
        sizes.append(sum(own is not None for own in params))
        return choose(logits, host, params, rngs, ops)

    monkeypatch.setattr("minillm.engine.executor.draw_all", counted)
    together = Engine(llm).generate(prompts, asked)
    assert [answers[0].token_ids for answers in together] == alone
    assert max(sizes) == 3


def test_a_request_whose_logits_are_no_numbers_ends_alone():
    llm = small("numba")
    engine = Engine(llm)

    def after(segments, logits):
        for segment, rows in zip(segments, logits, strict=True):
            if segment.tokens[0] == 99:
                rows[:, 3] = np.nan

    engine.executor.transformer = Spoiled(engine.executor.transformer, after=after)
    params = SamplingParams(max_tokens=3, temperature=1.0, top_p=0.9, seed=0, ignore_eos=True)
    good, bad = engine.add([5, 7, 9], params), engine.add([99, 7, 9], params)
    deltas = [delta for _ in range(8) for delta in engine.step() if engine.has_work or delta]
    assert [d.request for d in deltas if d.error] == [bad] and "NaN" in str(next(d.error for d in deltas if d.error))
    assert isinstance(next(d.error for d in deltas if d.error), RequestError)
    assert sum(d.request == good for d in deltas) == 3
