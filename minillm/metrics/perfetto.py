"""A log as a timeline of requests, for https://ui.perfetto.dev or chrome://tracing.

A track is a slot: the place that a request takes from its arrival to its end, the lowest that is free. So the number of
tracks is the greatest number of requests at once. On it lie its spans:

    queued ─ prefill ─ decode ─ preempted ─ prefill ─ decode      of a server's log, which has SCHEDULED and PREEMPTED
    waiting ─ decode                                              of a client's log, which cannot see when work began

Format: Trace Event Format, complete events ("ph": "X"), times in microseconds.
"""

import heapq
from typing import Any, NamedTuple

from minillm.metrics.events import (
    ARRIVED,
    CACHED,
    ENDS,
    ENGINE,
    PREEMPTED,
    PROMPT_USAGE,
    SCHEDULED,
    STEP,
    TOKEN,
    USAGE,
    EventLog,
    tokens_of,
)


class Span(NamedTuple):
    """A piece of a request's life, in seconds."""

    slot: int
    request: int
    name: str
    start: float
    end: float


def lifetimes(log: EventLog) -> list[tuple[float, float, Any]]:  # -> [(start, end, request)] in the order of arrival
    return sorted((log.events_of(r)[0].time, max(e.time for e in log.events_of(r)), r) for r in log.requests())


def slots(log: EventLog) -> dict[Any, int]:  # -> {request: slot}
    """Assign each request the lowest free slot when it arrives; one that ends at this moment frees its slot first."""
    free: list[int] = []
    busy: list[tuple[float, int]] = []
    found = {}
    for start, end, request in lifetimes(log):
        while busy and busy[0][0] <= start:
            heapq.heappush(free, heapq.heappop(busy)[1])
        found[request] = heapq.heappop(free) if free else len(busy)
        heapq.heappush(busy, (end, found[request]))
    return found


def spans(log: EventLog) -> list[Span]:  # -> [Span], by request in the order of arrival
    """Cut each request's life into spans between changes of state; a span of no length is left out."""
    places, found = slots(log), []
    for _, _, request in lifetimes(log):
        events = log.events_of(request)
        state = "queued" if any(e.kind == SCHEDULED for e in events) else "waiting"
        since = events[0].time
        for e in events:
            after = {SCHEDULED: "prefill", TOKEN: "decode", PREEMPTED: "preempted"}.get(e.kind, state)
            if (after != state and not (e.kind == SCHEDULED and state == "decode")) or e.kind in ENDS:
                if e.time > since:
                    found.append(Span(places[request], request, state, since, e.time))
                state, since = after, e.time
        if events[-1].kind not in ENDS and events[-1].time > since:  # not yet at its end
            found.append(Span(places[request], request, state, since, events[-1].time))
    return found


def trace(log: EventLog, name: str = "requests") -> dict[str, Any]:
    """Make a trace in Trace Event Format. Time 0 is the log's first event; an engine's steps make a curve of their tokens."""
    start = min((e.time for e in log.events), default=0.0)

    def micros(seconds: float) -> float:
        return round(seconds * 1e6, 3)

    events = [{"ph": "M", "name": "process_name", "pid": 1, "args": {"name": name}}]
    for slot in sorted(set(slots(log).values())):
        events += [{"ph": "M", "name": "thread_name", "pid": 1, "tid": slot, "args": {"name": f"slot {slot}"}}]
    for span in spans(log):
        of = log.events_of(span.request)
        about = {
            "request": span.request,
            "ended": next((e.kind for e in of if e.kind in ENDS), "unfinished"),
            "prompt_tokens": tokens_of(of, ARRIVED, PROMPT_USAGE),
            "new_tokens": tokens_of(of, TOKEN, USAGE),
            "cached_tokens": sum(e.tokens for e in of if e.kind == CACHED),
        }
        where = {"pid": 1, "tid": span.slot, "ts": micros(span.start - start), "dur": micros(span.end - span.start)}
        events += [{"ph": "X", "cat": span.name, "name": f"{span.name} {span.request}", **where, "args": about}]
    steps = [e for e in log.events_of(ENGINE) if e.kind == STEP]
    curve = {"ph": "C", "name": "tokens a step", "pid": 1}
    events += [{**curve, "ts": micros(e.time - start), "args": {"tokens": e.tokens}} for e in steps]
    return {"traceEvents": events, "displayTimeUnit": "ms"}
