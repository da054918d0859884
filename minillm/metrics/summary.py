"""Metrics of a whole log: latencies of requests, their percentiles, throughput, goodput.

A request that failed, was refused or was cancelled is counted as just that. It has no latency: half an answer is not a
fast answer. For a finished request with its n tokens at t₁ … tₙ and its arrival at t₀:

    TTFT = t₁ − t₀      TPOT = (tₙ − t₁) / (n − 1)      E2E = tₙ − t₀      ITL: each tᵢ₊₁ − tᵢ

TPOT is that of `minillm.metrics.events`, which says what it means for several answers: it has no second definition here.
Where the field uses one name in two ways, the convention is a parameter, named after the tool or the paper that uses it:

    TPOT      vllm: as above, none for one token          guidellm: E2E / n, which others call normalized
    ITL       vllm: every gap between chunks              aiperf, guidellm: one number a request, the TPOT above
    goodput   vllm, aiperf: completed requests per second that meet every objective
              distserve: the highest rate at which 90% of requests do
    TBT       mooncake: the mean of the longest tenth of a request's gaps
    normalized latency   orca, vllm's paper: the mean over requests of E2E / n

Percentiles have intervals: minillm/metrics/bootstrap.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minillm.errors import MiniLLMError
from minillm.metrics.bootstrap import bootstrap
from minillm.metrics.events import (
    ARRIVED,
    CACHED,
    ENDS,
    FINISHED,
    PREEMPTED,
    PROMPT_USAGE,
    TOKEN,
    USAGE,
    Event,
    EventLog,
    tokens_of,
    tpot,
)

OBJECTIVES = ("ttft", "tpot", "itl", "tbt", "e2e")  # a limit for itl is one for every gap


@dataclass(slots=True)
class Measures:
    """Latencies of a finished request, in seconds; None where one is not defined (TPOT of one token)."""

    request: int
    prompt_tokens: int
    new_tokens: int
    ttft: float | None
    tpot: float | None
    e2e: float | None
    normalized: float | None  # TPOT as guidellm has it
    gaps: list[float]

    @property
    def tbt(self) -> float | None:
        longest = sorted(self.gaps, reverse=True)[: max(1, len(self.gaps) // 10)]
        return sum(longest) / len(longest) if longest else None

    @property
    def itl(self) -> float | None:
        return max(self.gaps, default=None)

    def meets(self, slo: Mapping[str, float]) -> bool:  # {"ttft": seconds, ...} -> bool
        """Whether every objective is met. A TPOT that is not defined misses none; a request without a token misses all."""
        seen = {name: getattr(self, name) for name in slo}
        return self.ttft is not None and all(seen[name] is None or seen[name] <= limit for name, limit in slo.items())


def latencies(log: EventLog, request: Any) -> tuple[float | None, float | None, float | None]:  # -> TTFT, TPOT, E2E in seconds
    """Compute TTFT, TPOT and E2E of one request, from its arrival, waiting and preemption included.

    As defined above, None where not defined. All three are None of a request without a FINISHED event or without a token. A
    request may have several answers (Event.index): the first token of any ends the wait, the last of any the whole. For TPOT
    ask tpot(log, request), which knows about single tokens, chunks of several, and the mean over answers.
    """
    events = log.events_of(request)
    # BEGIN SOLUTION ex=06.4
    tokens = [e.time for e in events if e.kind == TOKEN]
    if not tokens or not any(e.kind == FINISHED for e in events):
        return None, None, None
    start = next(e.time for e in events if e.kind == ARRIVED)
    return min(tokens) - start, tpot(log, request), max(tokens) - start
    # END SOLUTION


def gaps(events: Sequence[Event]) -> list[float]:  # [Event] of one request -> [seconds]
    """List the gaps between events with tokens of the same answer."""
    found: list[float] = []
    last: dict[int, float] = {}
    for e in events:
        if e.kind == TOKEN:
            found += [e.time - last[e.index]] if e.index in last else []
            last[e.index] = e.time
    return found


def measure(log: EventLog, request: Any) -> Measures | None:
    """Measure one request; None unless it has finished. Costs as many steps as it has events."""
    events = log.events_of(request)
    if not any(e.kind == FINISHED for e in events):
        return None
    prompt, new = tokens_of(events, ARRIVED, PROMPT_USAGE), tokens_of(events, TOKEN, USAGE)
    ttft, pace, e2e = latencies(log, request)
    normalized = None if ttft is None else tpot(log, request, "guidellm")
    return Measures(request, prompt, new, ttft, pace, e2e, normalized, gaps(events))


def count_outcomes(log: EventLog) -> dict[str, int]:  # -> {kind: number of requests}
    """Count how requests ended, by their first end; "unfinished" are those that have not yet."""
    counts = dict.fromkeys((*sorted(ENDS), "unfinished"), 0)
    for request in log.requests():
        counts[next((e.kind for e in log.events_of(request) if e.kind in ENDS), "unfinished")] += 1
    return counts


def duration(log: EventLog) -> float:  # -> seconds
    """Compute the time from the first arrival to the last event of any request; 0 of an empty log."""
    times = [e.time for request in log.requests() for e in (log.events_of(request)[0], log.events_of(request)[-1])]
    return max(times) - min(times) if times else 0.0


def tpots(  # [Measures] -> [seconds], one for each request that has one
    measures: Sequence[Measures], convention: str = "vllm"
) -> list[float]:
    names = {"vllm": "tpot", "guidellm": "normalized"}
    return [v for m in measures if (v := getattr(m, by_convention(names, convention, "TPOT"))) is not None]


def itls(  # [Measures] -> [[seconds]], one list for each request
    measures: Sequence[Measures], convention: str = "vllm"
) -> list[list[float]]:
    names = {"vllm": lambda m: m.gaps, "aiperf": tpot_alone, "guidellm": tpot_alone}
    of = by_convention(names, convention, "ITL")
    return [of(m) for m in measures]


def tpot_alone(m: Measures) -> list[float]:
    return [m.tpot] if m.tpot is not None else []


def by_convention(ways: Mapping[str, Any], convention: str, metric: str) -> Any:
    if convention not in ways:
        raise MiniLLMError(f"{metric} is defined by {' or '.join(ways)}, found {convention!r}.")
    return ways[convention]


def attainment(  # -> share of requests
    log: EventLog, slo: Mapping[str, float], measures: Sequence[Measures] | None = None
) -> float | None:
    """Compute the share of requests that meet every objective, among all that have ended except those cancelled by users.

    Errors and refusals are misses.
    """
    counts = count_outcomes(log)
    asked = counts["finished"] + counts["failed"] + counts["refused"]
    measures = all_measures(log) if measures is None else measures  # a caller may pass them
    return sum(m.meets(slo) for m in measures) / asked if asked else None


def goodput(  # -> requests per second, in the sense of vllm and aiperf
    log: EventLog, slo: Mapping[str, float], seconds: float | None = None, measures: Sequence[Measures] | None = None
) -> float | None:
    """Compute completed requests that meet every objective per second; seconds: by default what the log covers."""
    seconds = duration(log) if seconds is None else seconds
    measures = all_measures(log) if measures is None else measures
    return sum(m.meets(slo) for m in measures) / seconds if seconds else None


def goodput_distserve(runs: Sequence[tuple[float, float]], share: float = 0.9) -> float | None:  # [(rate, attainment)] -> rate
    """Find the highest rate such that there, and at every lower measured rate, this share of requests meets the objectives."""
    best = 0.0
    for rate, attained in sorted(runs):
        if attained is None or attained < share:
            break
        best = rate
    return best


def parse_slo(text: str) -> dict[str, float]:  # "ttft=0.5,tpot=0.05" -> {"ttft": 0.5, "tpot": 0.05}
    """Parse objectives in seconds. Errors: MiniLLMError names the part that is none."""
    slo = {}
    for part in text.split(","):
        name, _, value = (x.strip() for x in part.partition("="))
        try:
            limit = float(value)
        except ValueError:
            limit = -1.0
        if name not in OBJECTIVES or name in slo or not 0 < limit < float("inf"):
            known = ", ".join(OBJECTIVES)
            raise MiniLLMError(f"an objective is one of {known}, each once, = seconds above 0, found {part.strip()!r}.")
        slo[name] = limit
    return slo


# --- of many requests -----------------------------------------------------------------------------------------------------


def all_measures(log: EventLog) -> list[Measures]:  # -> [Measures], in the order of arrival
    return [m for request in log.requests() if (m := measure(log, request)) is not None]


def report(log: EventLog, slo: Mapping[str, float] | None = None, seconds: float | None = None, seed: int = 0) -> dict[str, Any]:
    """Compute every metric of a log, under one set of names with units."""
    measures, seconds = all_measures(log), duration(log) if seconds is None else seconds

    def per_second(n: float) -> float | None:
        return n / seconds if seconds else None

    one_each: dict[str, list] = {
        "ttft_s": [m.ttft for m in measures],
        "tpot_s": tpots(measures),
        "e2e_s": [m.e2e for m in measures],
        "tbt_s": [m.tbt for m in measures],
        "normalized_latency_s": [m.normalized for m in measures],
    }
    found = {name: bootstrap([[v] for v in values if v is not None], seed=seed) for name, values in one_each.items()}
    events = [e for request in log.requests() for e in log.events_of(request)]
    return {
        "requests": len(log.requests()),
        **count_outcomes(log),
        "duration_s": seconds,
        "requests_per_s": per_second(len(measures)),
        "prompt_tokens_per_s": per_second(sum(m.prompt_tokens for m in measures)),
        "new_tokens_per_s": per_second(sum(m.new_tokens for m in measures)),
        "cached_tokens": sum(e.tokens for e in events if e.kind == CACHED),
        "preemptions": sum(e.kind == PREEMPTED for e in events),
        **found,
        "itl_s": bootstrap(itls(measures), seed=seed),
        "slo_s": slo or {},
        "goodput_per_s": goodput(log, slo, seconds, measures) if slo else None,
        "attainment": attainment(log, slo, measures) if slo else None,
        "conventions": {"tpot_s": "vllm", "itl_s": "vllm", "goodput_per_s": "vllm, aiperf", "tbt_s": "mooncake"},
    }
