"""One log of what happened to each request, and every metric as a function over it.

Nothing keeps a counter of its own: the engine writes (request, kind, time) as things happen, and TTFT, TPOT and the rest
are computed afterwards. So a simulator on virtual time, a server on real time and a client that watches some other server
are measured by the same code. Where the field uses one name in two ways, the convention is a parameter.

    TTFT  first token − arrival             what a user waits before anything appears
    TPOT  (E2E − TTFT) / (tokens − 1)       the pace after that; undefined for a single token
    ITL   each gap between two tokens       TPOT is their mean
    E2E   last token − arrival

A request may have several answers (n > 1), which decode beside each other. TTFT ends with the first token of any, E2E with
the last of any; each answer has a TPOT of its own, and the request's is their mean. vLLM does the same: its engine makes a
request of each answer, and its histogram of TPOT takes one value of each. TPOT is defined in `tpot` and nowhere else.

These are of one request. Metrics of a whole log (percentiles, goodput) are in minillm/metrics/summary.py.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from minillm.errors import MiniLLMError

ARRIVED, TOKEN, FINISHED = "arrived", "token", "finished"  # FINISHED: once a request, when its last answer is complete
SCHEDULED, PREEMPTED = "scheduled", "preempted"  # got a place in a step (anew after each preemption); lost it
CANCELLED, REFUSED, FAILED = "cancelled", "refused", "failed"  # other ends: by its user, before it began, by an error
CACHED = "cached"  # tokens: of the prompt, found in the prefix cache
DRAFTED, ACCEPTED = "drafted", "accepted"  # tokens: guessed ahead of a text, and of these those that were kept; 0 perhaps
PROMPT_USAGE, USAGE = "prompt_usage", "usage"  # tokens of prompt and of all answers, as a server reports them to a client
STEP, ENGINE = "step", -1  # a step of the engine was computed; tokens: how many. It belongs to no request, but to ENGINE
ENDS = frozenset({FINISHED, CANCELLED, REFUSED, FAILED})


class Event(NamedTuple):
    """An event of a request: its kind, time in seconds, and number of tokens (prompt tokens for ARRIVED).

    index: which of a request's n answers a TOKEN belongs to.
    """

    request: int
    kind: str
    time: float
    tokens: int = 1
    index: int = 0  # type: ignore[assignment]  # tuple.index gives way


@dataclass
class EventLog:
    """Events in the order they happened. `clock` is real time unless a simulator brings its own.

    keep_last: keep only so many of the requests that have ended, and drop the oldest first, with the steps before those
    left; None (the default) keeps all. A server that runs for months needs it.
    """

    clock: Callable[[], float] = time.perf_counter
    events: list[Event] = field(default_factory=list)
    keep_last: int | None = None

    def __post_init__(self) -> None:
        if self.keep_last is not None and self.keep_last < 1:
            raise MiniLLMError(f"a log keeps at least 1 request that has ended, found keep_last = {self.keep_last}.")
        self._of: dict[int, list[Event]] = {}  # by request: a metric of one costs as many steps as it has events
        self._ended: deque[int] = deque()
        self._sweep_at = 64  # events in the list
        for event in self.events:
            self._note(event)

    def add(self, request: int, kind: str, tokens: int = 1, index: int = 0) -> None:
        event = Event(request, kind, self.clock(), tokens, index)
        self.events.append(event)
        self._note(event)

    def events_of(self, request: int) -> list[Event]:
        """List all events of a request, in order; of ENGINE, its steps. Empty for one that is unknown or dropped."""
        return self._of.get(request, [])

    def requests(self) -> list[int]:
        """List the requests that the log knows, in the order of their first events."""
        return [request for request in list(self._of) if request != ENGINE]

    def times(self, request: int, kind: str, index: int | None = None) -> list[float]:
        """List the times of one kind of event of a request; of TOKEN one for each token, also of tokens that came together.

        index: of this answer alone.
        """
        found = [e for e in self.events_of(request) if e.kind == kind and index in (None, e.index)]
        return [e.time for e in found for _ in range(e.tokens if kind == TOKEN else 1)]

    def _note(self, event: Event) -> None:
        self._of.setdefault(event.request, []).append(event)
        if self.keep_last is None or event.kind not in ENDS:
            return
        self._ended.append(event.request)
        if len(self._ended) > self.keep_last:
            self._of.pop(self._ended.popleft(), None)
            if len(self.events) >= self._sweep_at:
                self._sweep()

    def _sweep(self) -> None:
        """Drop from the list the requests that left the index, and steps older than anything that is left."""
        left = [events[0].time for request, events in self._of.items() if request != ENGINE]
        since = min(left, default=float("inf"))
        self.events = [e for e in self.events if (e.time >= since if e.request == ENGINE else e.request in self._of)]
        if ENGINE in self._of:
            self._of[ENGINE] = [e for e in self._of[ENGINE] if e.time >= since]
        self._sweep_at = 2 * len(self.events) + 64  # when it has doubled: an event is copied once or so in its life


def ttft(log: EventLog, request: int, index: int | None = None) -> float | None:
    """Compute the time to first token, from arrival; None where there was none. index: to the first of this answer."""
    tokens = log.times(request, TOKEN, index)
    return tokens[0] - log.times(request, ARRIVED)[0] if tokens else None


def itl(log: EventLog, request: int, index: int | None = None) -> list[float]:
    """List the inter-token latencies: the gap before each token but the first of its answer."""
    each = [log.times(request, TOKEN, i) for i in answers(log, request, index)]
    return [b - a for times in each for a, b in zip(times, times[1:], strict=False)]


def answers(log: EventLog, request: int, index: int | None = None) -> list[int]:
    """List the answers of a request that have a token; or the one asked for."""
    return sorted({e.index for e in log.events_of(request) if e.kind == TOKEN}) if index is None else [index]


def tokens_of(events: list[Event], kind: str, usage: str) -> int:
    """Count the tokens of a kind of event, unless a server has reported (usage) how many they really were."""
    told = [e.tokens for e in events if e.kind == usage]
    return told[-1] if told else sum(e.tokens for e in events if e.kind == kind)


def new_tokens(log: EventLog, request: int, index: int | None = None) -> float:
    """Count the tokens of a request's answers, or of one. A server's report covers all answers: each gets its seen share."""
    total, seen = tokens_of(log.events_of(request), TOKEN, USAGE), len(log.times(request, TOKEN))
    return total if index is None or not seen else total * len(log.times(request, TOKEN, index)) / seen


def tpot(log: EventLog, request: int, convention: str = "vllm", index: int | None = None) -> float | None:
    """Compute the time per output token: "vllm" leaves the first token out, "guidellm" spreads the whole E2E over all tokens.

    index: of this answer; else the mean over the request's answers that have one. A server's report (USAGE) counts where
    there is one, as a chunk may hold more tokens than a client can tell. None where no gap was seen: of a single token, and
    of tokens that all came in one chunk.
    """
    if convention not in ("vllm", "guidellm"):
        raise MiniLLMError(f"TPOT is defined by 'vllm' or 'guidellm', found {convention!r}.")
    if index is None:
        each = [tpot(log, request, convention, i) for i in answers(log, request)]
        return mean([pace for pace in each if pace is not None])
    times, count = log.times(request, TOKEN, index), new_tokens(log, request, index)
    if convention == "vllm" and count > 1 and sum(e.kind == TOKEN and e.index == index for e in log.events_of(request)) == 1:
        return None  # all in one chunk
    # BEGIN SOLUTION ex=01.6
    if convention == "guidellm":
        return (times[-1] - log.times(request, ARRIVED)[0]) / count if times else None
    return (times[-1] - times[0]) / (count - 1) if count > 1 else None
    # END SOLUTION


def mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def e2e(log: EventLog, request: int, index: int | None = None) -> float | None:
    """Compute the end-to-end latency, from arrival to the last token. index: to the last of this answer."""
    tokens = log.times(request, TOKEN, index)
    return tokens[-1] - log.times(request, ARRIVED)[0] if tokens else None


def throughput(log: EventLog) -> float | None:
    """Compute output tokens of all requests over the time from the first arrival to the last token."""
    tokens = [e for e in log.events if e.kind == TOKEN]
    start = min((e.time for e in log.events if e.kind == ARRIVED), default=0.0)
    seconds = max((e.time for e in tokens), default=start) - start
    return sum(e.tokens for e in tokens) / seconds if seconds > 0 else None


def summary(log: EventLog, request: int, index: int | None = None) -> dict[str, float | None]:
    """Compute the metrics of one request, or of one of its answers, under the names that every --json output uses."""
    prompt = next((e.tokens for e in log.events_of(request) if e.kind == ARRIVED), None)
    if prompt is None:
        raise MiniLLMError(f"the log knows nothing of request {request}: it has not arrived, or was forgotten (keep_last).")
    first, pace = ttft(log, request, index), tpot(log, request, index=index)
    whole, count = e2e(log, request, index), new_tokens(log, request, index)
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
