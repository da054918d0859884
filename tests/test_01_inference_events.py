"""Metrics are functions over one event log; stop strings in a stream."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm.errors import MiniLLMError
from minillm.metrics import events
from minillm.metrics.events import ARRIVED, FINISHED, TOKEN, Event, EventLog
from minillm.model.stopping import StopStrings

MIXED = EventLog(
    events=[
        Event(0, ARRIVED, 10.0, 7),
        Event(1, ARRIVED, 10.5, 3),
        Event(0, TOKEN, 11.0),
        Event(1, TOKEN, 11.0),
        Event(0, TOKEN, 11.25),
        Event(0, TOKEN, 12.0),
        Event(1, FINISHED, 11.0),
        Event(0, FINISHED, 12.0),
    ]
)


def test_each_metric_is_what_its_name_says():
    assert events.ttft(MIXED, 0) == 1.0
    assert events.itl(MIXED, 0) == [0.25, 0.75]
    assert events.e2e(MIXED, 0) == 2.0
    assert events.throughput(MIXED) == 4 / 2.0
    assert events.summary(MIXED, 0) == {
        "prompt_tokens": 7,
        "new_tokens": 3,
        "ttft_s": 1.0,
        "tpot_s": 0.5,
        "e2e_s": 2.0,
        "prefill_tokens_per_s": 7.0,
        "decode_tokens_per_s": 2.0,
        "throughput_tokens_per_s": 1.5,
    }


def test_a_request_without_tokens_has_no_metrics_and_no_crash():
    log = EventLog(events=[Event(0, ARRIVED, 1.0, 5)])
    assert events.ttft(log, 0) is None and events.tpot(log, 0) is None and events.e2e(log, 0) is None
    assert events.throughput(log) is None and events.summary(log, 0)["new_tokens"] == 0


def test_an_unknown_convention_is_refused():
    with pytest.raises(MiniLLMError, match="'mean'"):
        events.tpot(MIXED, 0, "mean")


def test_the_log_reads_the_clock_it_was_given():
    ticks = iter([3.0, 4.5])
    log = EventLog(clock=lambda: next(ticks))
    log.add(0, ARRIVED, 2)
    log.add(0, TOKEN)
    assert log.events == [Event(0, ARRIVED, 3.0, 2), Event(0, TOKEN, 4.5, 1)]


def stream(text, stops, cuts):
    """Push a text in pieces; return what was shown and after how much input each part was."""
    state, shown = StopStrings(tuple(stops)), ""
    bounds = sorted({min(c, len(text)) for c in cuts} | {0, len(text)})
    for a, b in zip(bounds, bounds[1:], strict=False):
        shown += state.push(text[a:b])
    return shown + state.flush(), state.hit


@given(
    st.text("ab\n", max_size=30),
    st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(0, 30), max_size=8),
)
def test_a_stop_string_cut_anywhere_ends_the_text_at_its_first_occurrence(text, stops, cuts):
    shown, hit = stream(text, stops, cuts)
    assert text.startswith(shown)
    assert not any(stop in shown for stop in stops)
    ends = [text.find(stop) for stop in stops if stop in text]
    if ends:  # whichever stop completes first wins; cut differently, an overlapping one may complete earlier
        assert hit is not None and text.startswith(shown + hit)
    else:
        assert hit is None and shown == text


def test_text_that_cannot_begin_a_stop_string_is_shown_at_once():
    state = StopStrings(("\n\n",))
    assert state.push("a") == "a"
    assert state.push("b\n") == "b", "the newline waits: it may be the first of two"
    assert state.push("c") == "\nc"
    assert state.push("\n") == "" and state.push("\nd") == "" and state.hit == "\n\n"


def test_after_a_hit_nothing_more_is_shown():
    state = StopStrings(("x",))
    assert state.push("ax") == "a" and state.push("b") == "" and state.flush() == ""


@pytest.mark.parametrize("stops", [(), ("zzz",)])
def test_without_a_hit_nothing_is_lost(stops):
    state = StopStrings(stops)
    assert state.push("azz") + state.push("az") + state.flush() == "azzaz"
