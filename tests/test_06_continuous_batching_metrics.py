"""Metrics of a whole log against plain loops over it, and intervals against NumPy and a closed form."""

import json
import math
import random

import mistakes_serving
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minillm.course.checks import check_close, exercise
from minillm.errors import MiniLLMError
from minillm.metrics import summary
from minillm.metrics.bootstrap import PERCENTILES, bootstrap, statistics
from minillm.metrics.events import (
    ARRIVED,
    CACHED,
    CANCELLED,
    FAILED,
    FINISHED,
    PREEMPTED,
    PROMPT_USAGE,
    REFUSED,
    SCHEDULED,
    STEP,
    TOKEN,
    USAGE,
    Event,
    EventLog,
)
from minillm.metrics.summary import Measures, latencies, measure

# --- 06.4 -------------------------------------------------------------------------------------------------------------------


def life(times, end=FINISHED, arrived=1.0, before=(), index=0, tokens=None, late=0.0):
    """Events of one request: tokens at these times, perhaps other things before; it ends `late` seconds after the last."""
    tokens = tokens or [1] * len(times)
    events = [Event(3, ARRIVED, arrived, 9), *before]
    events += [Event(3, TOKEN, t, n, index) for t, n in zip(times, tokens, strict=True)]
    return events + ([Event(3, end, max([*times, arrived]) + late, 1)] if end else [])


def check(events, ttft, tpot, e2e):
    for name, mine, right in zip(("TTFT", "TPOT", "E2E"), latencies(EventLog(events=events), 3), (ttft, tpot, e2e), strict=True):
        story = ", ".join(f"{e.kind} at {e.time:g}" for e in events)
        assert (mine is None) == (right is None), f"{name} of a request ({story}) should be {right}, found {mine}"
        if right is not None:
            what = f"{name} of a request ({story})"
            ways = lambda: mistakes_serving.latency(events, name) | of_answer_0(events, name)  # noqa: B023, E731
            check_close(np.float64(mine), np.float64(right), what=what, mistakes=ways)


def of_answer_0(events, name):  # -> {words: seconds}
    first = next((e.time for e in events if e.kind == TOKEN and not e.index), np.nan)
    wait = first - next(e.time for e in events if e.kind == ARRIVED)
    return {"answer 0 is waited for: the first token of any answer ends the wait": wait} if name == "TTFT" else {}


gap_lists = st.lists(st.floats(0.001, 5), min_size=1, max_size=20)


@exercise("06.4", points=2, hint=(
    "From when on does the user wait, and until when? How many gaps lie between n tokens?",
    "n tokens have n - 1 gaps; the wait for the first token is TTFT and not part of TPOT. tpot(log, request) knows this.",
    "With the times of TOKEN and that of ARRIVED: min(tokens) - start, tpot(log, request), max(tokens) - start.",
))  # fmt: skip
@given(wait=st.floats(0.01, 30), gaps=gap_lists, arrived=st.floats(0, 1000))
@example(wait=1.0, gaps=[1.0], arrived=0.0)  # a simulator's clock begins at 0
def test_the_first_token_counts_in_ttft_and_not_in_tpot(wait, gaps, arrived):
    times = [arrived + wait + sum(gaps[:i]) for i in range(len(gaps) + 1)]
    for late in (0.0, 3.0):  # a server may say FINISHED long after the last token: no metric counts that
        check(life(times, arrived=arrived, late=late), wait, sum(gaps) / len(gaps), wait + sum(gaps))


@exercise("06.4", points=1, hint="A single token has no gap, and so no pace: None, neither 0 nor a division by zero.")
def test_a_single_token_has_no_tpot():
    check(life([3.5]), 2.5, None, 2.5)
    check(life([3.5], tokens=[4]), 2.5, None, 2.5)  # four tokens in one chunk: no gap was seen either


@exercise("06.4", points=1, hint="A request that was cancelled or failed has no latency: half an answer is not a fast answer.")
@pytest.mark.parametrize("end", [CANCELLED, FAILED, REFUSED, None])
def test_what_did_not_finish_has_no_latency(end):
    check(life([2.0, 3.0], end), None, None, None)


@exercise("06.4", points=1, hint="A request may finish without a token (max_tokens 0, an empty answer): min() of nothing fails.")
def test_no_token_no_latency():
    check(life([]), None, None, None)


@exercise("06.4", points=1, hint="The user waits from the arrival on, also while the request waits in the queue or is preempted.")
def test_waiting_and_preemption_count_in_full():
    before = [Event(3, SCHEDULED, 4.0), Event(3, CACHED, 4.0, 5), Event(3, PREEMPTED, 5.0), Event(3, SCHEDULED, 6.0)]
    events = life([7.0, 8.0], end=None, before=before) + [Event(3, PREEMPTED, 8.5), Event(3, SCHEDULED, 12.0)]
    check([*events, Event(3, TOKEN, 13.0), Event(3, FINISHED, 13.0)], 6.0, 3.0, 12.0)


@exercise("06.4", points=1, hint="A chunk may hold several tokens, and a server may report (USAGE) how many there were.")
def test_tokens_are_counted_and_not_chunks():
    check(life([2.0, 4.0, 6.0], tokens=[1, 2, 2]), 1.0, 4.0 / 4, 5.0)
    check(life([2.0, 4.0, 5.0], tokens=[1, 1, 3]), 1.0, 3.0 / 4, 4.0)  # seconds over tokens, no mean of the chunks' means
    check([*life([2.0, 4.0, 6.0]), Event(3, USAGE, 6.0, 9)], 1.0, 4.0 / 8, 5.0)


@exercise("06.4", points=1, hint="With n > 1 each answer (index) has a TPOT of its own: the request's is their mean.")
def test_several_answers_decode_beside_each_other():
    first, second = [(2.0, 0), (3.0, 0), (4.0, 0)], [(2.5, 1), (6.5, 1)]
    events = [Event(3, ARRIVED, 1.0, 5), *(Event(3, TOKEN, t, 1, i) for t, i in sorted(first + second)), Event(3, FINISHED, 6.5)]
    check(events, 1.0, ((1.0 + 1.0) / 2 + 4.0) / 2, 5.5)
    for first in (0, 1):  # whichever answer speaks first, and whichever ends last
        events = [*life([3.0], None, index=first), Event(3, TOKEN, 4.0, 1, 1 - first), Event(3, FINISHED, 4.0)]
        check(events, 2.0, None, 3.0)


# --- the rest of a request -------------------------------------------------------------------------------------------------


def test_measures_of_a_request_by_hand():
    log = EventLog(events=[*life([2.0, 2.5, 4.5]), Event(3, PROMPT_USAGE, 4.5, 11)])
    m = measure(log, 3)
    assert (m.prompt_tokens, m.new_tokens, m.gaps) == (11, 3, [0.5, 2.0])
    assert m.normalized == 3.5 / 3 and m.itl == 2.0 and m.tbt == 2.0
    assert summary.tpots([m]) == [1.25] and summary.tpots([m], "guidellm") == [3.5 / 3]
    assert summary.itls([m]) == [[0.5, 2.0]] and summary.itls([m], "aiperf") == [[1.25]] == summary.itls([m], "guidellm")
    for call in (summary.tpots, summary.itls):
        with pytest.raises(MiniLLMError, match="found 'mean'"):
            call([m], "mean")


@given(st.lists(st.floats(0.001, 9), min_size=1, max_size=60))
def test_tbt_is_the_mean_of_the_longest_tenth(gaps):
    count = max(1, len(gaps) // 10)
    rest, longest = list(gaps), []
    for _ in range(count):
        longest.append(max(rest))
        rest.remove(max(rest))
    assert Measures(0, 1, 1, 1.0, 1.0, 1.0, 1.0, gaps).tbt == pytest.approx(sum(longest) / count)


@pytest.mark.parametrize(
    ("slo", "met"),
    [({"ttft": 1.0}, True), ({"ttft": 0.99}, False), ({"ttft": 1, "tpot": 1.25}, True), ({"ttft": 1, "tpot": 1.2}, False),
     ({"itl": 2.0}, True), ({"itl": 1.9}, False), ({"e2e": 3.5}, True), ({"tbt": 1.9, "e2e": 9}, False), ({}, True)],
)  # fmt: skip
def test_every_objective_must_be_met(slo, met):
    assert measure(EventLog(events=life([2.0, 2.5, 4.5])), 3).meets(slo) is met


def test_an_undefined_tpot_misses_nothing_and_an_empty_answer_misses_everything():
    assert measure(EventLog(events=life([2.0])), 3).meets({"tpot": 0.001, "itl": 0.001})
    assert not measure(EventLog(events=life([])), 3).meets({"tpot": 100.0})


# --- a whole log -----------------------------------------------------------------------------------------------------------


def crowd(seed, count=40):
    """A log in which everything happens, and for each request (arrival, token times, how it ended)."""
    rng, events, truth = random.Random(seed), [], []
    for request in range(count):
        arrived = rng.uniform(0, 20)
        times = sorted(arrived + rng.uniform(0.1, 9) for _ in range(rng.choice([0, 1, 2, 7])))
        end = rng.choice([FINISHED, FINISHED, FINISHED, CANCELLED, FAILED, REFUSED, None])
        events.append(Event(request, ARRIVED, arrived, 10 + request))
        events += [Event(request, SCHEDULED, arrived), *(Event(request, TOKEN, t) for t in times)]
        if rng.random() < 0.3:
            events.append(Event(request, PREEMPTED, arrived + 0.05))
        if end:
            events.append(Event(request, end, max([*times, arrived])))
        truth.append((arrived, times, end))
    events += [Event(-1, STEP, t, 5) for t in range(100)]  # steps go on long after the last request
    return EventLog(events=sorted(events, key=lambda e: e.time)), truth


@settings(max_examples=15)
@given(st.integers(0, 10_000))
def test_a_report_is_what_plain_loops_find(seed):
    log, truth = crowd(seed)
    slo = {"ttft": 2.0, "tpot": 1.5}
    found = summary.report(log, slo)
    done = [(a, t) for a, t, end in truth if end == FINISHED]
    first, last = min(a for a, _, _ in truth), max(max([a, *t]) for a, t, _ in truth)
    for kind in (CANCELLED, FAILED, REFUSED, FINISHED):
        assert found[kind] == sum(end == kind for _, _, end in truth)
    assert found["unfinished"] == sum(end is None for _, _, end in truth) and found["requests"] == len(truth)
    last = max(last, max((e.time for e in log.events if e.request >= 0), default=0))
    assert found["duration_s"] == pytest.approx(last - first)
    assert found["requests_per_s"] == pytest.approx(len(done) / (last - first))
    assert found["new_tokens_per_s"] == pytest.approx(sum(len(t) for _, t in done) / (last - first))
    prompts = sum(10 + i for i, (_, _, end) in enumerate(truth) if end == FINISHED)
    assert found["prompt_tokens_per_s"] == pytest.approx(prompts / (last - first))
    assert found["preemptions"] == sum(e.kind == PREEMPTED for e in log.events)
    waits = [t[0] - a for a, t in done if t]
    paces = [(t[-1] - t[0]) / (len(t) - 1) for _, t in done if len(t) > 1]
    spans = [b - a for _, t in done for a, b in zip(t, t[1:], strict=False)]
    whole = [t[-1] - a for a, t in done if t]
    for name, values in (("ttft_s", waits), ("tpot_s", paces), ("itl_s", spans), ("e2e_s", whole)):
        assert found[name]["count"] == len(values)
        if values:
            assert found[name]["mean"] == pytest.approx(sum(values) / len(values))
            for p in PERCENTILES:
                assert found[name][f"p{p}"] == pytest.approx(np.percentile(values, p))
    good = sum(t[0] - a <= 2 and (len(t) < 2 or (t[-1] - t[0]) / (len(t) - 1) <= 1.5) for a, t in done if t)
    asked = sum(end in (FINISHED, FAILED, REFUSED) for _, _, end in truth)
    assert found["goodput_per_s"] == pytest.approx(good / (last - first)) and found["attainment"] == pytest.approx(good / asked)
    assert json.loads(json.dumps(found)) and "NaN" not in json.dumps(found)


def test_an_empty_log_has_a_report_too():
    found = summary.report(EventLog(), {"ttft": 1.0})
    assert found["requests"] == 0 and found["requests_per_s"] is None and found["attainment"] is None
    assert found["ttft_s"] == {"count": 0} and found["goodput_per_s"] is None
    assert summary.report(EventLog(events=life([2.0])))["slo_s"] == {}


def test_seconds_may_be_given():
    log = EventLog(events=life([2.0, 3.0]))
    assert summary.report(log, {"ttft": 1.0}, seconds=10.0)["requests_per_s"] == 0.1 == summary.goodput(log, {"ttft": 1.0}, 10.0)


def test_distserves_goodput_is_the_highest_rate_before_the_first_that_fails():
    runs = [(4, 0.5), (1, 1.0), (2, 0.9), (3, 0.89), (5, 0.95), (6, None)]
    assert summary.goodput_distserve(runs) == 2
    assert summary.goodput_distserve(runs, 0.89) == 3 and summary.goodput_distserve([(1, 0.2)]) == 0.0


def test_objectives_are_read_from_a_line_of_text():
    assert summary.parse_slo("ttft=0.5, tpot = .05") == {"ttft": 0.5, "tpot": 0.05}
    for bad in ("", "ttft", "itl=", "ttft=x", "ttft=0", "ttft=-1", "ttft=nan", "ttft=inf", "speed=1", "ttft=1,ttft=2", "e2e=1,"):
        with pytest.raises(MiniLLMError, match="an objective is one of ttft, tpot, itl, tbt, e2e"):
            summary.parse_slo(bad)


# --- intervals -------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(-50, 50), st.integers(0, 4)), min_size=1, max_size=30))
def test_statistics_of_counted_values_are_numpys_of_repeated_ones(pairs):
    pairs = sorted(pairs)
    values, times = np.array([v for v, _ in pairs]), np.array([n for _, n in pairs])
    if times.sum() == 0:
        times[0] = 1
    repeated = np.repeat(values, times)
    right = [repeated.mean(), *np.percentile(repeated, PERCENTILES)]
    assert statistics(values, times) == pytest.approx(right, abs=1e-9)


@given(st.lists(st.lists(st.floats(-9, 9), max_size=4), min_size=2, max_size=6), st.integers(0, 99))
def test_an_interval_is_that_of_resamples_that_are_really_made(groups, seed):
    """The same draws, with the groups drawn put one after another, and NumPy's own percentiles."""
    groups = [g for g in groups if g]
    if len(groups) < 2:
        return
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(20):
        values = np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))])
        made.append([values.mean(), *np.percentile(values, PERCENTILES)])
    found = bootstrap(groups, resamples=20, seed=seed)
    for name, column in zip(("mean", *(f"p{p}" for p in PERCENTILES)), np.array(made).T, strict=True):
        assert found[f"{name}_ci"] == pytest.approx(tuple(np.quantile(column, (0.025, 0.975))), abs=1e-9)


def test_one_request_has_no_interval_and_two_equal_ones_have_one_of_no_width():
    assert bootstrap([[3.0, 4.0]])["p50_ci"] is None and bootstrap([[3.0, 4.0]])["p50"] == 3.5
    assert bootstrap([[3.0], [3.0]])["p99_ci"] == (3.0, 3.0)
    assert bootstrap([]) == {"count": 0} == bootstrap([[], []])


def test_the_same_seed_gives_the_same_interval():
    groups = [[float(i % 7), float(i)] for i in range(30)]
    assert bootstrap(groups) == bootstrap(groups) and bootstrap(groups, seed=1) != bootstrap(groups)


def test_the_interval_of_a_mean_is_that_of_the_normal_law():
    """Standard error of the mean of 400 exponentials: 1/20. The bootstrap's own error of its ends is about 5% of it."""
    rng = random.Random(5)
    values = [rng.expovariate(1.0) for _ in range(400)]
    low, high = bootstrap([[v] for v in values])["mean_ci"]
    spread = np.std(values) / 20
    assert (high - low) == pytest.approx(2 * 1.96 * spread, rel=0.15)
    assert (low + high) / 2 == pytest.approx(np.mean(values), abs=0.3 * spread)


def test_intervals_hold_the_truth_as_often_as_they_say():
    """The median of an exponential is ln 2. 200 experiments of 60 requests; at 93% true coverage (the bootstrap is a little
    narrow for 60) fewer than 170 hits has a chance below 1e-4, more than 199 below 1e-5."""
    hits = 0
    for seed in range(200):
        rng = random.Random(seed)
        low, high = bootstrap([[rng.expovariate(1.0)] for _ in range(60)], resamples=300, seed=seed)["p50_ci"]
        hits += low <= math.log(2) <= high
    assert 170 <= hits <= 199


def test_values_of_one_request_are_drawn_together():
    """Ten requests of 100 equal gaps know ten things, not a thousand."""
    rng = random.Random(2)
    pace = [rng.uniform(1, 2) for _ in range(10)]
    together = bootstrap([[p] * 100 for p in pace])["mean_ci"]
    alone = bootstrap([[p] for p in pace for _ in range(100)])["mean_ci"]
    assert (together[1] - together[0]) > 5 * (alone[1] - alone[0])
