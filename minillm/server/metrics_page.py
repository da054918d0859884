"""The /metrics page: the engine's event log, in the format that Prometheus reads.

    event ─▶ WatchedLog.add ─▶ the log, and the page ─▶ GET /metrics ─▶ Prometheus ─▶ alerts and pictures

There are no second counters. The page sees each event as it is logged; when a request ends, its TTFT, TPOT and E2E are those
of `minillm.metrics.events`, over the log, and go into histograms. Gauges (requests running and waiting, KV blocks in use) are
read from the engine when the page is requested. Names follow vLLM's, with another prefix: same dashboards.

A histogram in Prometheus counts how many values were at most 0.1, at most 0.2, ...: Prometheus estimates percentiles from
these counts, no finer than the buckets.
"""

from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from minillm.metrics.events import (
    ACCEPTED,
    ARRIVED,
    CACHED,
    DRAFTED,
    ENDS,
    FINISHED,
    PREEMPTED,
    TOKEN,
    EventLog,
    answers,
    e2e,
    tpot,
    ttft,
)

STEPS = (1, 2, 5)
TTFT_BUCKETS = [round(d * 10.0**k, 6) for k in range(-3, 3) for d in STEPS]  # 1 ms to 500 s
TPOT_BUCKETS = [round(d * 10.0**k, 6) for k in range(-4, 1) for d in STEPS]  # 0.1 ms to 5 s
GAUGES = {
    "running": ("requests_running", "Requests that have a place in the step"),
    "waiting": ("requests_waiting", "Requests that wait for one"),
    "swapped": ("requests_swapped", "Requests whose KV blocks lie on the host"),
    "kv_blocks_used": ("kv_blocks_used", "KV blocks in use"),
    "kv_blocks_total": ("kv_blocks", "KV blocks there are"),
}


class MetricsPage:
    """The metrics of one server, as text. Nothing is shared between two servers in one process."""

    media_type = CONTENT_TYPE_LATEST

    def __init__(self, prefix: str = "minillm") -> None:
        self.registry, self.prefix = CollectorRegistry(), prefix
        self.now: dict[str, int] = {}
        self.registry.register(self)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"{prefix}_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(f"{prefix}_{name}_seconds", text, registry=self.registry, buckets=buckets)

        self.requests = counter("requests", "Requests that have ended, by how", "outcome")
        self.tokens = {
            TOKEN: counter("generation_tokens", "Tokens generated"),
            ARRIVED: counter("prompt_tokens", "Tokens of prompts that arrived"),
            CACHED: counter("prefix_cache_hit_tokens", "Prompt tokens found in the prefix cache, so not computed"),
            DRAFTED: counter("spec_decode_num_draft_tokens", "Tokens guessed ahead, and verified"),
            ACCEPTED: counter("spec_decode_num_accepted_tokens", "Of these, tokens that were kept"),
        }
        self.preemptions = counter("preemptions", "Times that a sequence lost its place to another")
        self.histograms = (
            (ttft, histogram("time_to_first_token", "From arrival to the first token", TTFT_BUCKETS)),
            (tpot, histogram("time_per_output_token", "Mean gap after the first token, one value an answer", TPOT_BUCKETS)),
            (e2e, histogram("e2e_request_latency", "From arrival to the last token", TTFT_BUCKETS)),
        )

    def record(self, log: EventLog, request: int, kind: str, tokens: int) -> None:
        """Record an event that was just logged."""
        if kind == CACHED and sum(event.kind == CACHED for event in log.events_of(request)) > 1:
            return  # said again when it came back after a preemption, or for another of its answers
        if kind in self.tokens:
            self.tokens[kind].inc(tokens)
        elif kind == PREEMPTED:
            self.preemptions.inc()
        elif kind in ENDS:
            self.requests.labels(kind).inc()
            if kind == FINISHED:
                self.observe(log, request)

    def observe(self, log: EventLog, request: int) -> None:
        """Observe the metrics of a finished request. Each of its answers has a TPOT of its own, as in vLLM."""
        for measure, histogram in self.histograms:
            for index in answers(log, request) if measure is tpot else [None]:
                if (value := measure(log, request, index=index)) is not None:
                    histogram.observe(value)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges as they are now; called by prometheus_client."""
        for key, (name, text) in GAUGES.items():
            if key in self.now:
                yield GaugeMetricFamily(f"{self.prefix}_{name}", text, value=self.now[key])

    def render(self, stats: dict[str, int]) -> bytes:
        self.now = stats
        return generate_latest(self.registry)


class WatchedLog(EventLog):
    """An event log that shows each event to a page as it is written."""

    page: MetricsPage | None = None

    def add(self, request: int, kind: str, tokens: int = 1, index: int = 0) -> None:
        super().add(request, kind, tokens, index)
        if self.page is not None:
            self.page.record(self, request, kind, tokens)
