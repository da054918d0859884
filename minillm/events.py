"""One log of what happened to each request, and every metric as a function over it.

Nothing keeps a counter of its own: the engine writes (request, kind, time) as things happen, and TTFT, TPOT and the rest
are computed afterwards. So a simulator on virtual time and a server on real time are measured by the same code. Where
the field uses one name in two ways, the convention is a parameter.

    TTFT  first token − arrival                       what a user waits before anything appears
    TPOT  (last token − first token) / (tokens − 1)   the pace after that; undefined for a single token
    ITL   each gap between two tokens                 TPOT is their mean
    E2E   last token − arrival
"""

import time
from dataclasses import dataclass, field
from typing import NamedTuple

from minillm.errors import MiniLLMError

ARRIVED, TOKEN, FINISHED = "arrived", "token", "finished"


class Event(NamedTuple):
    """What happened, to whom, when (seconds), and how many tokens it was about (prompt tokens for ARRIVED)."""

    request: int
    kind: str
    time: float
    tokens: int = 1


@dataclass
class EventLog:
    """Events in the order they happened. `clock` is real time unless a simulator brings its own."""

    clock: object = time.perf_counter
    events: list[Event] = field(default_factory=list)

    def add(self, request, kind, tokens=1):
        self.events.append(Event(request, kind, self.clock(), tokens))

    def times(self, request, kind):
        """When this kind of event happened to a request."""
        return [e.time for e in self.events if e.request == request and e.kind == kind]


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
    tokens = [e.time for e in log.events if e.kind == TOKEN]
    start = min(e.time for e in log.events if e.kind == ARRIVED)
    return len(tokens) / (max(tokens) - start) if tokens and max(tokens) > start else None


def summary(log, request):  # -> {name with unit: number}
    """The metrics of one request, under the names that every --json output uses."""
    first, pace = ttft(log, request), tpot(log, request)
    prompt = next(e.tokens for e in log.events if e.request == request and e.kind == ARRIVED)
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
