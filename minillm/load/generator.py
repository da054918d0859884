"""The load generator: sends a workload to a server, watches every answer, reports the results.

    open loop     each request at its own time, however slow earlier ones are
    closed loop   `concurrency` users; each sends its next request when its last has ended

A generator can be too slow itself. Then it sends late, and the server looks better than it is: how late each request went
out is measured and reported, as is the share of a core that the generator used. Prompts are made before the clock starts.
An error is an outcome with a name, counted by that name; it has no latency (minillm/metrics/summary.py).
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from minillm.errors import MiniLLMError
from minillm.load import workload
from minillm.load.client import Client, RequestResult
from minillm.load.client_sse import Trouble
from minillm.load.traces import TraceRequest
from minillm.metrics import summary
from minillm.metrics.bootstrap import bootstrap
from minillm.metrics.events import ARRIVED, PROMPT_USAGE, EventLog, tokens_of

MOST_PROMPT_TOKENS = 100_000_000  # of all requests: their prompts are made beforehand
PROBE = -2  # request number of what is sent to learn about the server; not of the workload


@dataclass
class LoadTest:
    """The requests of a load test and their results. start: when request 0 was due, by the log's clock."""

    requests: Sequence[TraceRequest]
    log: EventLog
    start: float = 0.0
    outcomes: dict[int, RequestResult] = field(default_factory=dict)
    cpu_s: float = 0.0
    open_loop: bool = True
    stopped: bool = False

    def lateness(self, number: int) -> float | None:  # -> seconds, or None where nothing was due
        return self.log.times(number, ARRIVED)[0] - self.start - self.requests[number].arrival if self.open_loop else None


async def drive(
    client: Client, requests: Sequence[TraceRequest], bodies: Sequence[bytes], concurrency: int | None = None,
    progress: Callable[[], Any] | None = None
) -> LoadTest:
    """Send all requests: at their arrival times (open loop), or `concurrency` at a time (closed loop). progress(): after each.

    Cancelled (Control-C), it cancels what is under way, and returns what it has, with stopped = True.
    """
    test = LoadTest(requests, client.log, open_loop=concurrency is None)

    async def one(number: int) -> None:
        try:
            test.outcomes[number] = await client.complete(number, bodies[number], requests[number].prompt)
        except asyncio.CancelledError:
            test.outcomes[number] = RequestResult(number, "cancelled")
            raise
        finally:
            if progress:
                progress()

    async def user(numbers: Iterator[int]) -> None:
        for number in numbers:  # one iterator for all users: each takes the next
            await one(number)

    async def clock() -> None:
        for number, request in enumerate(requests):
            await asyncio.sleep(max(0.0, test.start + request.arrival - client.log.clock()))
            tasks.append(asyncio.create_task(one(number)))

    cpu, tasks = time.process_time(), []
    test.start = client.log.clock()
    try:
        if concurrency is None:
            await clock()
        else:
            numbers = iter(range(len(requests)))
            tasks += [asyncio.create_task(user(numbers)) for _ in range(min(concurrency, len(requests)))]
        await asyncio.gather(*tasks)
    except asyncio.CancelledError:
        test.stopped = True
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    test.cpu_s = time.process_time() - cpu
    return test


async def probe(client: Client) -> tuple[float, float]:  # -> tokens per word, tokens that the server adds
    """Probe with two short requests how the server counts tokens: (1.0, 0.0) where it does not say. Trouble: it fails."""
    counts = []
    for number, length in ((PROBE, 32), (PROBE - 1, 96)):
        outcome = await client.complete(number, client.body(workload.text(TraceRequest(length, 1), number), 1), length)
        if outcome.error and outcome.error != "empty":
            raise Trouble(outcome.error, outcome.message)
        counts += [e.tokens for e in client.log.events_of(number) if e.kind == PROMPT_USAGE]
    if len(counts) < 2 or counts[1] <= counts[0]:
        return 1.0, 0.0
    per_word = (counts[1] - counts[0]) / 64
    return per_word, counts[0] - 32 * per_word


async def prepare(client: Client) -> tuple[float, float]:  # -> tokens per word, tokens that the server adds
    """Check that there is a server, that it has the model, and that it streams. Errors: MiniLLMError, in one line."""
    try:
        names = await client.models()
    except Trouble as trouble:
        if trouble.kind != "http 404":
            raise
        names = []  # some servers have no list
    if client.model is None and not names:
        raise MiniLLMError("the server lists no models at /v1/models: is it OpenAI-compatible? If so, name one with --model.")
    if client.model is not None and names and client.model not in names:
        raise MiniLLMError(f"no model {client.model!r} on this server, it has {', '.join(names[:8])}.")
    client.model = client.model or names[0]
    try:
        return await probe(client)
    except Trouble as trouble:
        if trouble.kind in ("not a stream", "http 404", "http 405"):
            raise MiniLLMError(f"this is no OpenAI-compatible server that streams ({trouble}).") from None
        raise


async def run(
    client: Client, requests: Sequence[TraceRequest], *, concurrency: int | None = None, seed: int = 0,
    vocabulary: tuple[int, int] | None = None, progress: Callable[[], Any] | None = None, ready: Callable[[], Any] | None = None
) -> LoadTest:
    """Run a load test: prepare, make prompts, drive. vocabulary: (first, last + 1) sends exact token ids; None sends text."""
    if concurrency is not None and concurrency < 1:
        raise MiniLLMError(f"concurrency is at least 1, found {concurrency}.")
    if vocabulary and client.chat:
        raise MiniLLMError("/v1/chat/completions takes no token ids: leave out the vocabulary, or use /v1/completions.")
    if (total := sum(r.prompt for r in requests)) > MOST_PROMPT_TOKENS:
        raise MiniLLMError(f"prompts of {total:,} tokens in all, at most {MOST_PROMPT_TOKENS:,}: send fewer requests.")
    log, bodies = client.log, []
    client.log = EventLog(log.clock)  # what the probes did is not part of the measurement
    try:
        per_word, overhead = await prepare(client)
    finally:
        client.log = log
    for number, request in enumerate(requests):
        if vocabulary:
            prompt: str | list[int] = workload.token_ids(request, number, seed, vocabulary)
        else:
            prompt = workload.text(request, number, seed, per_word, overhead)
        bodies.append(client.body(prompt, request.output))
    if ready:
        ready()
    return await drive(client, requests, bodies, concurrency, progress)


def report(test: LoadTest, slo: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Compute the metrics of the log, errors by kind, and how late the generator sent its requests."""
    errors = Counter(outcome.error for outcome in test.outcomes.values() if outcome.error)
    found = summary.report(test.log, slo)
    sent = test.log.requests()
    late = [[max(0.0, test.lateness(number) or 0.0)] for number in sent] if test.open_loop else []
    times = [test.log.times(number, ARRIVED)[0] for number in sent]
    span = max(times) - min(times) if times else 0.0
    return {
        "planned": len(test.requests),
        "stopped": test.stopped,
        **found,
        "errors": dict(errors.most_common()),
        "offered_per_s": (len(sent) - 1) / span if span and test.open_loop else None,
        "generator_late_s": bootstrap(late),
        "generator_cpu_cores": test.cpu_s / found["duration_s"] if found["duration_s"] else None,
    }


def rows(test: LoadTest) -> list[dict[str, Any]]:  # -> [dict], one for each request that was sent, in their order
    """Make the CSV rows, one a request; None where it has no such number."""
    found = []
    for number in sorted(test.log.requests()):
        m, outcome = summary.measure(test.log, number), test.outcomes.get(number, RequestResult(number, "unfinished"))
        found.append(
            {
                "request": number,
                "due_s": test.requests[number].arrival if test.open_loop else None,
                "sent_s": test.log.times(number, ARRIVED)[0] - test.start,
                "late_s": test.lateness(number),
                "prompt_tokens": tokens_of(test.log.events_of(number), ARRIVED, PROMPT_USAGE),
                "new_tokens": m and m.new_tokens,
                "ttft_s": m and m.ttft,
                "tpot_s": m and m.tpot,
                "e2e_s": m and m.e2e,
                "longest_gap_s": m and m.itl,
                "finish_reason": outcome.finish_reason,
                "error": outcome.error or "",
                "message": outcome.message,
            }
        )
    return found
