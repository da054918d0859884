"""The log of a server: an index that always agrees with the list, and a length that stays bounded."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.errors import MiniLLMError
from minillm.metrics import events
from minillm.metrics.events import (
    ARRIVED,
    CACHED,
    CANCELLED,
    ENDS,
    ENGINE,
    FAILED,
    FINISHED,
    PREEMPTED,
    REFUSED,
    SCHEDULED,
    STEP,
    TOKEN,
    Event,
    EventLog,
)

MIDDLE = (TOKEN, SCHEDULED, PREEMPTED, CACHED)


class Clock:
    """Time that moves by one second with each look."""

    now = 0.0

    def __call__(self):
        self.now += 1
        return self.now


def lives(draw):
    """Interleaved lives of requests, with steps of the engine in between: a list of (request, kind)."""
    alive, story, next_request = [], [], 0
    for pick in draw:
        what = pick % 5
        if what == 0 or not alive:
            alive.append(next_request)
            story.append((next_request, ARRIVED))
            next_request += 1
        elif what == 1:
            request = alive.pop(pick // 5 % len(alive))
            story.append((request, sorted(ENDS)[pick % len(ENDS)]))
        elif what == 2:
            story.append((ENGINE, STEP))
        else:
            story.append((alive[pick // 5 % len(alive)], MIDDLE[pick % len(MIDDLE)]))
    return story


@given(st.lists(st.integers(0, 10_000), max_size=200).map(lives))
def test_the_index_says_what_a_walk_through_the_whole_list_says(story):
    log = EventLog(Clock())
    for request, kind in story:
        log.add(request, kind)
    for request in {r for r, _ in story}:
        assert log.events_of(request) == [e for e in log.events if e.request == request]
        for kind in (ARRIVED, *MIDDLE, *ENDS):
            assert log.times(request, kind) == [e.time for e in log.events if e.request == request and e.kind == kind]
    assert log.requests() == list(dict.fromkeys(r for r, _ in story if r != ENGINE))
    again = EventLog(events=list(log.events))
    assert all(again.events_of(r) == log.events_of(r) for r in log.requests()), "a log made of given events has the same index"


@given(st.lists(st.integers(0, 10_000), max_size=300).map(lives), st.integers(1, 5))
def test_a_bounded_log_forgets_only_the_oldest_ended_requests(story, keep):
    log, whole = EventLog(Clock(), keep_last=keep), EventLog(Clock())
    ended = []
    for request, kind in story:
        log.add(request, kind)
        whole.add(request, kind)
        ended += [request] if kind in ENDS else []
        gone = set(ended[:-keep])
        assert set(log.requests()) == set(whole.requests()) - gone
        assert all(log.events_of(r) == whole.events_of(r) for r in log.requests())
        kept = [e for e in whole.events if e.request not in gone and e.kind != STEP]
        listed = [e for e in log.events if e.request in log.requests()]
        assert listed == kept, "what is left is whole, and in order"
        first = min((e.time for e in kept), default=float("inf"))
        steps = [e for e in whole.events if e.kind == STEP and e.time >= first]
        assert [e for e in log.events_of(ENGINE) if e.time >= first] == steps, "steps beside what is left are all there"


def test_a_bounded_log_stays_short_for_ever():
    log = EventLog(Clock(), keep_last=10)
    longest = 0
    for request in range(5_000):
        log.add(request, ARRIVED, 7)
        for _ in range(4):
            log.add(ENGINE, STEP, 3)
            log.add(request, TOKEN)
        log.add(request, (FINISHED, CANCELLED, REFUSED, FAILED)[request % 4])
        longest = max(longest, len(log.events))
    assert longest <= 2 * 11 * 10 + 64, "10 requests of 10 events, steps included, and what is not swept up yet"
    assert len(log.events_of(ENGINE)) <= longest and log.requests() == list(range(4_990, 5_000))
    assert len(log._ended) == 10, "nothing else grows"


def test_a_metric_of_one_request_reads_its_events_alone():
    class Counting(list):
        walks = 0

        def __iter__(self):
            Counting.walks += 1
            return super().__iter__()

    log = EventLog(Clock(), Counting())
    for request in range(50):
        log.add(request, ARRIVED, 5)
        log.add(request, TOKEN)
        log.add(request, TOKEN)
    Counting.walks = 0
    assert events.summary(log, 30)["tpot_s"] == 1.0
    assert Counting.walks == 0, "the list of all events was walked"


def test_tokens_that_come_together_count_each():
    log = EventLog(events=[Event(0, ARRIVED, 1.0, 5), Event(0, TOKEN, 2.0, 2), Event(0, TOKEN, 5.0, 3)])
    assert log.times(0, TOKEN) == [2.0, 2.0, 5.0, 5.0, 5.0] and log.times(0, ARRIVED) == [1.0]
    assert events.summary(log, 0)["new_tokens"] == 5 and events.tpot(log, 0) == 3.0 / 4
    assert events.itl(log, 0) == [0, 3.0, 0, 0] and events.throughput(log) == 5 / 4.0


def test_an_unknown_request_has_no_events_and_asking_leaves_nothing_behind():
    log = EventLog()
    assert log.events_of(7) == [] and log.times(7, TOKEN) == [] and log.requests() == [] and events.throughput(log) is None


def test_a_log_that_keeps_nothing_is_refused():
    with pytest.raises(MiniLLMError, match="keep_last = 0"):
        EventLog(keep_last=0)


def test_the_kinds_are_all_different():
    kinds = [ARRIVED, STEP, events.USAGE, events.PROMPT_USAGE, *MIDDLE, *ENDS]
    assert not [kind for kind, n in Counter(kinds).items() if n > 1]
