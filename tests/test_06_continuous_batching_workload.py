"""Arrivals against the laws they are drawn from, prompts of an exact length, prefixes shared as far as pages are."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.errors import MiniLLMError
from minillm.load import workload
from minillm.load.traces import HASHED_TOKENS, TraceRequest


def gaps(times):
    return [b - a for a, b in zip(times, times[1:], strict=False)]


def kolmogorov(values, cdf):
    """The greatest distance between the values' distribution and a law's."""
    values, n = sorted(values), len(values)
    return max(max(abs(cdf(v) - i / n), abs(cdf(v) - (i + 1) / n)) for i, v in enumerate(values))


@pytest.mark.parametrize("rate", [0.5, 20.0])
def test_poisson_gaps_are_exponential(rate):
    """Kolmogorov: with 5,000 gaps a distance above 1.95/√5000 has a chance of 0.1%; the seed is fixed, so it was tried once."""
    found = gaps(workload.arrivals(5001, rate))
    assert kolmogorov(found, lambda t: 1 - math.exp(-rate * t)) < 1.95 / math.sqrt(5000)


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gamma_gaps_have_the_mean_of_the_rate_and_the_variation_of_the_burstiness(burstiness):
    """Mean 1/rate with a standard error of cv/√n of it: five, a chance of 6e-7. Of the variation, 15% is seven."""
    found = gaps(workload.arrivals(20_001, 8.0, burstiness, seed=3))
    cv = 1 / math.sqrt(burstiness)
    assert statistics.fmean(found) == pytest.approx(1 / 8.0, rel=5 * cv / math.sqrt(20_000))
    assert statistics.stdev(found) / statistics.fmean(found) == pytest.approx(cv, rel=0.15)


def test_gamma_of_shape_two_is_erlangs_law():
    """The distance of 5,000 gaps from 1 - (1 + x) e^-x, at 0.1% as above."""
    found = gaps(workload.arrivals(5001, 1.0, 2.0, seed=1))
    assert kolmogorov(found, lambda t: 1 - (1 + 2 * t) * math.exp(-2 * t)) < 1.95 / math.sqrt(5000)


def test_constant_arrivals_are_constant():
    assert workload.arrivals(4, 2.0, math.inf) == [0.0, 0.5, 1.0, 1.5] and workload.arrivals(1, 2.0) == [0.0]


@given(st.integers(1, 50), st.floats(0.01, 1e3), st.sampled_from([0.1, 1.0, 3.0, math.inf]), st.integers(0, 99))
def test_times_begin_at_zero_never_go_back_and_come_from_the_seed(count, rate, burstiness, seed):
    times = workload.arrivals(count, rate, burstiness, seed)
    assert len(times) == count and times[0] == 0 and times == sorted(times)
    assert times == workload.arrivals(count, rate, burstiness, seed)
    if count > 1 and burstiness != math.inf:
        assert times != workload.arrivals(count, rate, burstiness, seed + 1)


@pytest.mark.parametrize(
    ("bad", "words"),
    [((5, 0), "rate"), ((5, -1), "rate"), ((5, math.inf), "rate"), ((5, math.nan), "rate"), ((5, 1, 0), "burstiness"),
     ((5, 1, math.nan), "burstiness"), ((5, 1, -2), "burstiness"), ((0, 1), "1 to 1,000,000"), ((1_000_001, 1), "1,000,001")],
)  # fmt: skip
def test_arrivals_that_cannot_be_are_refused(bad, words):
    with pytest.raises(MiniLLMError, match=words):
        workload.arrivals(*bad)


def test_a_trace_keeps_its_clock_stretched():
    trace = [TraceRequest(5, 1, arrival=4.0), TraceRequest(6, 1, arrival=2.0), TraceRequest(7, 1, arrival=2.0)]
    assert [(r.prompt, r.arrival) for r in workload.as_traced(trace, 0.5)] == [(6, 0.0), (7, 0.0), (5, 1.0)]
    assert workload.as_traced([]) == []
    for scale in (0, -1, math.inf, math.nan):
        with pytest.raises(MiniLLMError, match="time scale"):
            workload.as_traced(trace, scale)
    with pytest.raises(MiniLLMError, match="no arrival times"):
        workload.as_traced([TraceRequest(5, 1)])


def test_requests_can_be_given_other_times_and_lengths():
    requests = workload.at_times(workload.fixed(2, 7, 3), [0.0, 0.25])
    assert requests == [TraceRequest(7, 3, arrival=0.0), TraceRequest(7, 3, arrival=0.25)]
    long = TraceRequest(1300, 900, (4, 5, 6), 1.5)
    assert workload.cut([long], 512, 10) == [TraceRequest(512, 10, (4,), 1.5)] and workload.cut([long], 513) == [
        TraceRequest(513, 900, (4, 5), 1.5)
    ]
    assert workload.cut([long]) == [long]
    for bad in ((0, 1, 1), (1, 0, 1), (1, 1, 0)):
        with pytest.raises(MiniLLMError):
            workload.fixed(*bad)


@given(st.integers(1, 1500), st.integers(0, 1000))
def test_prompts_have_exactly_as_many_ids_and_words(prompt, number):
    request = TraceRequest(prompt, 1)
    ids = workload.token_ids(request, number, vocabulary=(5, 9))
    assert len(ids) == prompt and set(ids) <= {5, 6, 7, 8} and ids == workload.token_ids(request, number, vocabulary=(5, 9))
    text = workload.text(request, number)
    assert len(text.split(" ")) == prompt and set(text.split(" ")) <= set(workload.WORDS)


def shared(a, b):
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


@given(st.lists(st.integers(0, 2), min_size=1, max_size=4), st.lists(st.integers(0, 2), min_size=1, max_size=4), st.data())
def test_prompts_share_their_beginning_exactly_as_far_as_their_pages(first, second, data):
    """Ids and words are drawn from many, so that equal ones beyond the shared pages are chance: below 1/100 each."""
    lengths = [HASHED_TOKENS * len(pages) - data.draw(st.integers(0, 500)) for pages in (first, second)]
    prompts = [TraceRequest(n, 1, tuple(pages)) for n, pages in zip(lengths, (first, second), strict=True)]
    expected = min(HASHED_TOKENS * shared(first, second), *(r.prompt for r in prompts))
    for make in (workload.words, lambda r, n: workload.token_ids(r, n, vocabulary=(0, 50_000))):
        a, b = (make(r, number) for number, r in enumerate(prompts))
        assert [len(a), len(b)] == [r.prompt for r in prompts]
        assert expected <= shared(a, b) <= expected + 10  # 10 equal ones by chance: 1e-20


def test_prompts_without_pages_share_nothing_and_the_seed_matters():
    request = TraceRequest(50, 1)
    make = [workload.words(request, number, seed) for number, seed in ((0, 0), (1, 0), (0, 1))]
    assert all(shared(a, b) < 10 for a, b in ((make[0], make[1]), (make[0], make[2])))


def test_text_leaves_room_for_what_a_template_adds():
    assert len(workload.text(TraceRequest(100, 1), 0, overhead=31).split()) == 69
    assert len(workload.text(TraceRequest(100, 1), 0, per_word=2.0, overhead=20).split()) == 40
    assert len(workload.text(TraceRequest(3, 1), 0, overhead=31).split()) == 1, "a prompt is never empty"
    assert len(workload.text(TraceRequest(600, 1, (1, 2)), 0, per_word=0.5).split()) == 1200


def test_the_words_are_different_and_plain():
    assert len(set(workload.WORDS)) == len(workload.WORDS) > 100
    assert all(word.isascii() and word.isalpha() and word.islower() for word in workload.WORDS)


@pytest.mark.model
def test_each_word_is_one_token_of_a_real_vocabulary(smollm2):
    assert [w for w in workload.WORDS if len(smollm2.tokenizer.encode(" " + w)) != 1] == []


def test_a_vocabulary_must_hold_something():
    for bad in ((5, 5), (6, 5), (-1, 5)):
        with pytest.raises(MiniLLMError, match="vocabulary"):
            workload.token_ids(TraceRequest(5, 1), 0, vocabulary=bad)
