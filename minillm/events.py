"""One log of what happened to each request, and every metric as a function over it.

Nothing keeps a counter of its own: the engine writes (request, kind, time) as things happen, and TTFT, TPOT and the rest
are computed afterwards. So a simulator on virtual time, a server on real time and a client that watches some other server
are measured by the same code. Where the field uses one name in two ways, the convention is a parameter.

    TTFT  first token − arrival                       what a user waits before anything appears
    TPOT  (last token − first token) / (tokens − 1)   the pace after that; undefined for a single token
    ITL   each gap between two tokens                 TPOT is their mean
    E2E   last token − arrival

These are of one request. Metrics of a whole log (percentiles, goodput) are in minillm/serving/metrics.py.
"""

import time
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from minillm.errors import MiniLLMError

ARRIVED, TOKEN, FINISHED = "arrived", "token", "finished"  # FINISHED: once a request, when its last answer is complete
SCHEDULED, PREEMPTED = "scheduled", "preempted"  # got a place in a step (anew after each preemption); lost it
CANCELLED, REFUSED, FAILED = "cancelled", "refused", "failed"  # other ends: by its user, before it began, by an error
CACHED = "cached"  # tokens: of the prompt, found in the prefix cache
USAGE = "usage"  # tokens: of all answers, as a server reports them to a client, which sees only chunks of text
STEP, ENGINE = "step", -1  # a step of the engine was computed; tokens: how many. It belongs to no request, but to ENGINE
ENDS = frozenset({FINISHED, CANCELLED, REFUSED, FAILED})


class Event(NamedTuple):
    """What happened, to whom, when (seconds), and how many tokens it was about (prompt tokens for ARRIVED).

    index: which of a request's n answers a TOKEN belongs to.
    """

    request: int
    kind: str
    time: float
    tokens: int = 1
    index: int = 0


@dataclass
class EventLog:
    """Events in the order they happened. `clock` is real time unless a simulator brings its own.

    keep_last: forget all but so many of the requests that have ended, the oldest first, and the steps before those left;
    None (the default) forgets nothing. A server that runs for months needs it.
    """

    clock: object = time.perf_counter
    events: list[Event] = field(default_factory=list)
    keep_last: int | None = None

    def __post_init__(self):
        if self.keep_last is not None and self.keep_last < 1:
            raise MiniLLMError(f"a log keeps at least 1 request that has ended, found keep_last = {self.keep_last}.")
        self._of = {}  # request -> its events: a metric of one request costs as many steps as it has events
        self._ended = deque()
        self._sweep_at = 64  # events in the list
        for event in self.events:
            self._note(event)

    def add(self, request, kind, tokens=1, index=0):
        event = Event(request, kind, self.clock(), tokens, index)
        self.events.append(event)
        self._note(event)

    def of(self, request):  # -> [Event]
        """All events of a request, in order; of ENGINE, its steps. Nothing for one that is unknown or forgotten."""
        return self._of.get(request, [])

    def requests(self):  # -> [request]
        """Requests that the log knows, in the order of their first events."""
        return [request for request in list(self._of) if request != ENGINE]

    def times(self, request, kind):  # -> [seconds]
        """When this kind of event happened to a request; of TOKEN once for each token, also of those that came together."""
        return [e.time for e in self.of(request) if e.kind == kind for _ in range(e.tokens if kind == TOKEN else 1)]

    def _note(self, event):
        self._of.setdefault(event.request, []).append(event)
        if self.keep_last is None or event.kind not in ENDS:
            return
        self._ended.append(event.request)
        if len(self._ended) > self.keep_last:
            self._of.pop(self._ended.popleft(), None)
            if len(self.events) >= self._sweep_at:
                self._sweep()

    def _sweep(self):
        """Drop from the list what the index has forgotten, and steps older than anything that is left."""
        left = [events[0].time for request, events in self._of.items() if request != ENGINE]
        since = min(left, default=float("inf"))
        self.events = [e for e in self.events if (e.time >= since if e.request == ENGINE else e.request in self._of)]
        if ENGINE in self._of:
            self._of[ENGINE] = [e for e in self._of[ENGINE] if e.time >= since]
        self._sweep_at = 2 * len(self.events) + 64  # when it has doubled: an event is copied once or so in its life


def ttft(log, request):  # -> seconds
    """Time to first token, from arrival; None where there was none."""
    tokens = log.times(request, TOKEN)
    return tokens[0] - log.times(request, ARRIVED)[0] if tokens else None


def itl(log, request):  # -> [seconds]
    """Inter-token latencies: the gap before each token but the first."""
    tokens = log.times(request, TOKEN)
    return [b - a for a, b in zip(tokens, tokens[1:], strict=False)]


def tpot(log, request, convention="vllm"):  # -> seconds
    """Time per output token: "vllm" leaves the first token out, "guidellm" spreads the whole E2E over all tokens."""
    if convention not in ("vllm", "guidellm"):
        raise MiniLLMError(f"TPOT is defined by 'vllm' or 'guidellm', found {convention!r}.")
    # BEGIN SOLUTION ex=01.6
    tokens = log.times(request, TOKEN)
    if convention == "guidellm":
        return (tokens[-1] - log.times(request, ARRIVED)[0]) / len(tokens) if tokens else None
    return (tokens[-1] - tokens[0]) / (len(tokens) - 1) if len(tokens) > 1 else None
    # END SOLUTION


def e2e(log, request):  # -> seconds
    """From arrival to the last token."""
    tokens = log.times(request, TOKEN)
    return tokens[-1] - log.times(request, ARRIVED)[0] if tokens else None


def throughput(log):  # -> tokens per second
    """Output tokens of all requests over the time from the first arrival to the last token."""
    tokens = [e for e in log.events if e.kind == TOKEN]
    start = min((e.time for e in log.events if e.kind == ARRIVED), default=0.0)
    seconds = max((e.time for e in tokens), default=start) - start
    return sum(e.tokens for e in tokens) / seconds if seconds > 0 else None


def summary(log, request):  # -> {name with unit: number}
    """The metrics of one request, under the names that every --json output uses."""
    first, pace = ttft(log, request), tpot(log, request)
    prompt = next(e.tokens for e in log.of(request) if e.kind == ARRIVED)
    whole, count = e2e(log, request), len(log.times(request, TOKEN))
    return {
        "prompt_tokens": prompt,
        "new_tokens": count,
        "ttft_s": first,
        "tpot_s": pace,
        "e2e_s": whole,
        "prefill_tokens_per_s": prompt / first if first else None,
        "decode_tokens_per_s": 1 / pace if pace else None,
        "throughput_tokens_per_s": count / whole if whole else None,
    }
