"""Profiles: what a trace is like, in a few kilobytes, and requests drawn from that.

A trace belongs to its publishers; a profile is this project's own summary of it. It keeps quantiles, and of
conversations how they grow, so that what is drawn wastes and hits about as the trace does:

    lengths         quantiles of the prompt; for each eighth of prompts, short to long, quantiles of the output
    conversations   a request is fresh and shares only its first page, the system prompt; or it goes on from one that came
                    `lag` requests ago: it repeats a share `kept` of its pages and adds `grown` new ones, all of them
                    quantiles for each eighth of such requests, short to long

Made from a trace with `python -m minillm.load.profiles azure|mooncake|sharegpt TRACE OUT.json`; those in data/profiles were.
"""

import json
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from minillm.errors import MiniLLMError, TraceError
from minillm.files import write_text
from minillm.formats.expect import shown
from minillm.load.traces import HASHED_TOKENS, READERS, TraceRequest

GROUPS = 8  # of requests by length
FOLDER = Path(__file__).resolve().parents[2] / "data" / "profiles"
SOURCES = {
    "azure": "Azure/AzurePublicDataset, AzureLLMInferenceTrace_conv.csv, CC-BY-4.0 (Patel et al., 2024, arXiv:2311.18677)",
    "mooncake": "kvcache-ai/Mooncake, FAST25-release conversation_trace.jsonl, Apache-2.0 (Qin et al., 2025, arXiv:2407.00079)",
    "sharegpt": "microsoft/sarathi-serve, sharegpt_8k_filtered_stats_llama2_tokenizer.csv, Apache-2.0 "
    "(Agrawal et al., 2024, arXiv:2403.02310)",
}


def quantiles(values: Iterable[float], points: int = 33) -> list[float]:  # -> [value at 0, 1/32, … 1]
    """Compute quantiles at evenly spaced ranks."""
    values = sorted(values)
    return [values[round(i * (len(values) - 1) / (points - 1))] for i in range(points)]


def at(points: Sequence[float], u: float) -> float:
    """Interpolate the value at rank u of 0 … 1 between the quantiles."""
    place = u * (len(points) - 1)
    i = min(int(place), len(points) - 2)
    return points[i] + (place - i) * (points[i + 1] - points[i])


# --- from a trace to a profile --------------------------------------------------------------------------------------------


def fit_lengths(requests: Sequence[TraceRequest]) -> dict[str, Any]:
    """Fit quantiles of prompts, and of outputs given the prompt."""
    ranked = sorted((r.prompt, r.output) for r in requests)
    edges = [i * len(ranked) // GROUPS for i in range(GROUPS + 1)]
    groups = [ranked[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    return {
        "requests": len(ranked),
        "prompt": quantiles([p for p, _ in ranked], 129),
        "output": [quantiles([g for _, g in group]) for group in groups if group],
    }


def fit_conversations(requests: Sequence[TraceRequest]) -> dict[str, Any]:
    """Fit how requests continue earlier ones: long ones after more time, and growing faster."""
    fresh, on = [], []
    last: dict[int, int] = {}  # page -> number of the last request with it
    for number, request in enumerate(requests):
        hit = 0
        while hit < len(request.pages) and request.pages[hit] in last:
            hit += 1
        before = last[request.pages[hit - 1]] if hit > 1 else None
        if before is None:
            fresh.append(len(request.pages))
        else:
            pages = len(requests[before].pages)
            on.append((pages, number - before, round(hit / pages, 3), len(request.pages) - hit))
        last.update(dict.fromkeys(request.pages, number))
    on.sort()
    edges = [i * len(on) // GROUPS for i in range(GROUPS + 1)]
    groups = [list(zip(*on[a:b], strict=True)) for a, b in zip(edges, edges[1:], strict=False) if a < b]
    return {
        "requests": len(requests),
        "goes_on": round(len(on) / len(requests), 4),
        "fresh": quantiles(fresh, 65),
        "after": [
            {"pages": [pages[0], pages[-1]], "lag": quantiles(lag), "kept": quantiles(kept), "grown": quantiles(grown)}
            for pages, lag, kept, grown in groups
        ],
    }


def fit(kind: str, path: str | Path) -> dict[str, Any]:  # -> profile
    """Fit a profile to a trace file."""
    if kind not in READERS:
        raise MiniLLMError(f"a trace is of the kind azure, mooncake or sharegpt, found {kind!r}.")
    requests = READERS[kind](path)
    if kind == "mooncake":
        return {"kind": "conversations", "source": SOURCES[kind], "output": quantiles([r.output for r in requests]),
                **fit_conversations(requests)}  # fmt: skip
    return {"kind": "lengths", "source": SOURCES[kind], **fit_lengths(requests)}


# --- from a profile to requests -------------------------------------------------------------------------------------------


def draw(profile: dict[str, Any], n: int | None = None, seed: int = 0) -> list[TraceRequest]:
    """Draw n requests (by default as many as the trace has) like those of the trace."""
    make = {"lengths": draw_lengths, "conversations": draw_conversations}[profile["kind"]]
    try:
        return list(make(profile, n or profile["requests"], random.Random(seed)))
    except (TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
        raise TraceError(f"the profile does not hold what it should ({type(error).__name__}: {error}).") from None


def draw_lengths(profile: dict[str, Any], n: int, rng: random.Random) -> Iterator[TraceRequest]:
    for _ in range(n):
        u = rng.random()
        group = profile["output"][min(int(u * len(profile["output"])), len(profile["output"]) - 1)]
        yield TraceRequest(round(at(profile["prompt"], u)), round(at(group, rng.random())))


def draw_conversations(profile: dict[str, Any], n: int, rng: random.Random) -> Iterator[TraceRequest]:
    history: list[tuple[int, ...]] = []
    ended: set[int] = set()  # those that were gone on from
    next_page = 1  # page 0 is the system prompt's
    for _ in range(n):
        pages: tuple[int, ...] = (0,)
        new = at(profile["fresh"], rng.random()) - 1
        if history and profile["after"] and rng.random() < profile["goes_on"]:
            group = rng.choice(profile["after"])
            number = around(history, ended, round(at(group["lag"], rng.random())), *group["pages"])
            ended.add(number)
            before = history[number]
            pages = before[: max(1, round(len(before) * min(1, at(group["kept"], rng.random()))))]
            new = at(group["grown"], rng.random())
        new = max(0, round(new))
        pages += tuple(range(next_page, next_page + new))
        next_page += new
        history.append(pages)
        prompt = len(pages) * HASHED_TOKENS - rng.randrange(HASHED_TOKENS)
        yield TraceRequest(prompt, round(at(profile["output"], rng.random())), pages)


def around(history: Sequence[tuple[int, ...]], ended: set[int], lag: int, least: int, most: int) -> int:  # -> number of a request
    """Find the request about `lag` requests ago that has so many pages and awaits its next turn; else the one at lag."""
    at_lag = max(0, len(history) - max(1, lag))
    for distance in range(min(lag, len(history)) // 2 + 1):
        for number in (at_lag + distance, at_lag - distance):
            if 0 <= number < len(history) and number not in ended and least <= len(history[number]) <= most:
                return number
    return at_lag


def load_profile(name: str | Path) -> dict[str, Any]:  # -> profile
    """Load a profile by name (azure_conv, mooncake_conv, sharegpt_8k) or by path. Errors: TraceError."""
    path = Path(name) if str(name).endswith(".json") else FOLDER / f"{name}.json"
    try:
        profile = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({error.strerror}); profiles are in data/profiles of a checkout.") from None
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{path}: not JSON ({error}).") from None
    needed = {"lengths": {"prompt", "output"}, "conversations": {"fresh", "after", "output", "goes_on"}}
    kind = profile.get("kind") if isinstance(profile, dict) else None
    known = isinstance(kind, str) and kind in needed and needed[kind] <= profile.keys()
    if not known or not isinstance(profile.get("requests"), int):
        raise TraceError(f"{path}: not a profile: expected kind, requests and its quantiles, found {shown(profile)}.")
    return profile


def main(arguments: Sequence[str]) -> None:
    if len(arguments) != 3:
        usage = "python -m minillm.load.profiles azure|mooncake|sharegpt TRACE OUT.json"
        raise MiniLLMError(f"{usage}: 3 arguments, found {len(arguments)}.")
    kind, trace, out = arguments
    text = json.dumps(fit(kind, trace), indent=None, separators=(",", ":")).replace('],"', '],\n"').replace(',"', ',\n"')
    write_text(out, text + "\n", TraceError)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except MiniLLMError as error:
        sys.exit(f"minillm: {error}")
