"""What a load generator sends, and when: all of it from a seed, so that two servers get the same load.

When. *Open loop*: users come by themselves, however slow the server is; only this shows a queue that grows. *Closed
loop*: so many users, each waiting for the answer before the next request; a slow server gets less load, which flatters it.
Gaps of an open loop have the mean 1/rate and, by how bursty they are, a gamma law of shape `burstiness`:

    burstiness   1: Poisson      → 0: bursts      ∞: one every 1/rate seconds      coefficient of variation = 1/√burstiness

What. Lengths come from a trace, a profile or are fixed. A prompt of N tokens is exact where a server takes token ids.
As text, a client without the server's tokenizer does this: frequent English words are one token each, with the space
before them, in every large vocabulary; so N of them are N tokens and whatever a template adds, which two probes measure
(minillm/load/generator.py). Words are drawn from the seed and the request's number, so that no two prompts share a
beginning and no prefix cache helps, unless the trace has pages: each page's words depend on its id alone, and prompts
share just as much as those of the trace did.

Schroeder et al., 2006, NSDI'06 (open against closed); Qin et al., 2025, arXiv:2407.00079 (pages).
"""

import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from minillm.errors import MiniLLMError
from minillm.load.traces import HASHED_TOKENS, TraceRequest

FREQUENT = (
    "the of and to in is that for it was on are as with his they at be this from have or by one had not but what all were "
    "when we there can an your which their said if do will each about how up out them then she many some so these would "
    "other into has more her two like him see time could no make than first been its who now people my made over did down "
    "only way find use may water long little very after words called just where most know get through back much before go "
    "good new write our used me man too any day same right look think also around another came come work three word must "
    "because does part even place well such here take why things help put years different away again off went old number"
)
WORDS = tuple(FREQUENT.split())
MOST = 1_000_000  # requests


# --- when -----------------------------------------------------------------------------------------------------------------


def arrivals(count: int, rate: float, burstiness: float = 1.0, seed: int = 0) -> list[float]:  # -> [seconds], from 0 on
    """Draw arrival times of an open loop at `rate` requests per second, the first at 0. burstiness: inf for equal gaps."""
    if not 0 < rate < math.inf:
        raise MiniLLMError(f"a rate is above 0 requests per second and finite, found {rate}.")
    if not burstiness > 0:
        raise MiniLLMError(f"burstiness is above 0 (1 is Poisson, inf is constant), found {burstiness}.")
    if not 0 < count <= MOST:
        raise MiniLLMError(f"a workload has 1 to {MOST:,} requests, found {count:,}.")
    if burstiness == math.inf:
        return [i / rate for i in range(count)]
    rng = random.Random(f"arrivals {seed}")
    gaps = (rng.gammavariate(burstiness, 1 / (rate * burstiness)) for _ in range(count - 1))
    return [0.0, *itertools.accumulate(gaps)]


def at_times(  # [TraceRequest], [seconds] -> [TraceRequest]
    requests: Sequence[TraceRequest], times: Sequence[float]
) -> list[TraceRequest]:
    """Set the arrival times of requests."""
    return [replace(request, arrival=time) for request, time in zip(requests, times, strict=True)]


def as_traced(  # [TraceRequest] -> [TraceRequest], in the order of arrival, from 0 on
    requests: Sequence[TraceRequest], time_scale: float = 1.0
) -> list[TraceRequest]:
    """Replay the trace's own times, each second stretched to `time_scale` seconds: 0.1 is ten times as fast."""
    if not 0 < time_scale < math.inf:
        raise MiniLLMError(f"a time scale is above 0 and finite, found {time_scale}.")
    if any(r.arrival is None for r in requests):
        raise MiniLLMError("these requests have no arrival times: give a rate, or a trace with a clock (Azure, Mooncake).")
    ordered = sorted(requests, key=lambda r: r.arrival)
    start = ordered[0].arrival if ordered else 0.0
    return [replace(r, arrival=(r.arrival - start) * time_scale) for r in ordered]


# --- how long -------------------------------------------------------------------------------------------------------------


def fixed(count: int, prompt_tokens: int, new_tokens: int) -> list[TraceRequest]:
    """Make requests of one shape."""
    if not 0 < count <= MOST:
        raise MiniLLMError(f"a workload has 1 to {MOST:,} requests, found {count:,}.")
    if prompt_tokens < 1 or new_tokens < 1:
        raise MiniLLMError(f"prompt and answer have at least 1 token, found {prompt_tokens} and {new_tokens}.")
    return [TraceRequest(prompt_tokens, new_tokens)] * count


def cut(requests: Sequence[TraceRequest], most_prompt: int | None = None, most_new: int | None = None) -> list[TraceRequest]:
    """Cut lengths to what a small model can hold; pages of a prompt that were cut off are dropped too."""
    for most in (most_prompt, most_new):
        if most is not None and most < 1:
            raise MiniLLMError(f"prompt and answer have at least 1 token, found at most {most}.")
    found = []
    for r in requests:
        prompt, new = min(r.prompt, most_prompt or r.prompt), min(r.output, most_new or r.output)
        found.append(replace(r, prompt=prompt, output=new, pages=r.pages[: -(-prompt // HASHED_TOKENS)]))
    return found


# --- what -----------------------------------------------------------------------------------------------------------------


def pieces(  # -> [piece], request.prompt of them
    request: TraceRequest, number: int, seed: int, draw: Callable[[random.Random, int], list]
) -> list:
    """Make a prompt of pieces from draw(rng, count): by page where the request has pages, else of its own."""
    if not request.pages:
        return draw(random.Random(f"request {seed} {number}"), request.prompt)
    made = []
    for page in request.pages[: -(-request.prompt // HASHED_TOKENS)]:
        made += draw(random.Random(f"page {seed} {page}"), HASHED_TOKENS)
    own = draw(random.Random(f"request {seed} {number}"), max(0, request.prompt - len(made)))  # where words are short
    return (made + own)[: request.prompt]


def words(request: TraceRequest, number: int, seed: int = 0) -> list[str]:
    """Draw as many frequent words as the prompt has tokens; joined by spaces they are about as many tokens."""
    return pieces(request, number, seed, lambda rng, count: rng.choices(WORDS, k=count))


def token_ids(request: TraceRequest, number: int, seed: int = 0, vocabulary: tuple[int, int] = (100, 250)) -> list[int]:
    """Draw exactly as many token ids, from `vocabulary` (first, last + 1): keep special tokens out of it."""
    low, high = vocabulary
    if not 0 <= low < high:
        raise MiniLLMError(f"a vocabulary goes from a token id of at least 0 up to a higher one, found {low} to {high}.")
    ids = range(low, high)
    return pieces(request, number, seed, lambda rng, count: rng.choices(ids, k=count))


def text(request: TraceRequest, number: int, seed: int = 0, per_word: float = 1.0, overhead: float = 0.0) -> str:
    """Make a prompt of about request.prompt tokens, where a word costs per_word tokens and a server adds `overhead`."""
    count = max(1, round((request.prompt - overhead) / per_word))
    return " ".join(words(replace(request, prompt=count), number, seed))
