"""Replays of real traces: how much memory each way of allocating wastes, and how often a prefix cache hits.

Waste. A request with a prompt of p tokens and an output of g holds p, p + 1, … p + g - 1 tokens while it decodes. What a
way of allocating reserves beyond that is waste, averaged over all decode steps of all requests (a step is the unit of
time, so long answers weigh more):

    waste = 1 - Σ tokens held / Σ tokens reserved

Hit rate. The field uses the word in several ways (metrics/hit_rate.py), and all are given: tokens found over all prompt tokens,
where long prompts weigh more; the mean over requests of the share found; requests that found anything. Of a prompt found whole
only the last token is computed.

Kwon et al., 2023, arXiv:2309.06180, figure 2; Qin et al., 2025, arXiv:2407.00079, table 2.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

from minillm import terminal
from minillm.cache.block_pool import BlockPool
from minillm.cache.block_table import BlockTable
from minillm.cache.policies import LFU, LRU, Belady, GreedyDual
from minillm.cache.prefix import HashPrefixCache
from minillm.cache.radix import RadixCache
from minillm.errors import RequestError
from minillm.load.profiles import draw, load_profile
from minillm.load.traces import HASHED_TOKENS, TraceRequest, read_azure, read_mooncake
from minillm.metrics.hit_rate import hit_rates

POLICIES = ("lru", "lfu", "cost", "belady")
EVEN_PAGES = 60  # pages of 512 after which attention costs as much as the products: about 30,000 tokens for Llama-3-8B


# --- waste ----------------------------------------------------------------------------------------------------------------


def power_of_two(n: int) -> int:
    """Round n up to a power of two."""
    return 1 << (n - 1).bit_length()


def paged_steps(prompt: int, output: int, block_size: int) -> int:
    """Count tokens reserved, summed over the decode steps, when blocks are taken as they are needed: a closed form."""

    def up_to(n: int) -> int:  # Σ of ceil(i / block_size) for i = 1 … n
        full, rest = divmod(n, block_size)
        return block_size * full * (full + 1) // 2 + rest * (full + 1)

    return block_size * (up_to(prompt + output - 1) - up_to(prompt - 1))


def waste(  # -> {way: dict}
    requests: Sequence[TraceRequest], reserve: int = 8192, block_sizes: Sequence[int] = (8, 16, 32, 64, 256)
) -> dict[str, Any]:
    """Compute the waste of each way of allocating, and how many requests fit where one fits that reserves the maximum.

    Requests longer than `reserve` tokens are left out: a server that reserves so much must refuse them.
    """
    served = [(r.prompt, r.output) for r in requests if r.prompt + r.output <= reserve]
    if not served:
        raise RequestError(f"none of {len(requests):,} requests fits into {reserve:,} tokens.")
    held = sum(g * p + g * (g - 1) // 2 for p, g in served)
    reserved = {
        f"reserve {reserve}": sum(g * reserve for _, g in served),
        "power of two": sum(g * power_of_two(p + g) for p, g in served),
        "power of two of the output": sum(g * (p + power_of_two(g)) for p, g in served),  # Orca (Pow2) in the paper
        "exact length, known before": sum(g * (p + g) for p, g in served),
    }
    reserved |= {f"paged {size}": sum(paged_steps(p, g, size) for p, g in served) for size in block_sizes}
    most = reserved[f"reserve {reserve}"]
    return {
        way: {"waste": 1 - held / tokens, "mean_tokens_reserved": tokens / sum(g for _, g in served), "fits": most / tokens}
        for way, tokens in reserved.items()
    }


# --- hits -----------------------------------------------------------------------------------------------------------------


def hits(
    requests: Sequence[TraceRequest], capacity: int, make_cache: Callable, on_request: Callable | None = None
) -> dict[str, Any]:
    """Serve requests one after another from a cache of `capacity` pages: its hit rates. on_request(number) comes before each."""
    pool = BlockPool(capacity, 1)  # to the cache a page is a token: it stands for 512
    cache = make_cache(pool)
    found = []
    for number, request in enumerate(requests):
        if on_request:
            on_request(number)
        table = BlockTable(pool, cache.match([*request.pages, None]))  # None: what comes after, so that all pages can hit
        found.append(min(table.length * HASHED_TOKENS, request.prompt - 1))
        table.append(min(len(request.pages) - table.length, pool.num_free))
        cache.commit(request.pages[: table.length], table.blocks)
        table.free()
    names = "hit_rate_tokens", "hit_rate_mean", "hit_rate_any"
    return dict(zip(names, hit_rates(found, [r.prompt for r in requests]), strict=True))


def by_policy(requests: Sequence[TraceRequest], capacity: int, name: str) -> dict[str, Any]:
    """Compute hit rates of a radix tree of `capacity` pages under a policy, or of the hash chain."""
    if name == "hash chain":
        return hits(requests, capacity, HashPrefixCache)
    if name == "belady":
        replayed = Belady([r.pages for r in requests])
        return hits(requests, capacity, lambda pool: RadixCache(pool, replayed), lambda n: setattr(replayed, "now", n))
    policy = {"lru": LRU, "lfu": LFU, "cost": lambda: GreedyDual(EVEN_PAGES)}[name]()
    return hits(requests, capacity, lambda pool: RadixCache(pool, policy))


def prefix(
    requests: Sequence[TraceRequest], capacities: Sequence[int] = (1_000_000, 3_000_000, 10_000_000, 30_000_000),
    policies: Sequence[str] = POLICIES
) -> dict[str, Any]:
    """Compute hit rates with an unlimited cache, then by capacity in tokens and policy, each as a share of the unlimited."""
    if not all(r.pages for r in requests):
        raise RequestError("these requests have no page ids: prefix hits need a trace like Mooncake's.")
    start = time.perf_counter()
    best = by_policy(requests, sum(len(r.pages) for r in requests), "lru")
    seconds = time.perf_counter() - start
    rows = []
    for capacity in capacities:
        for name in policies:
            rates = by_policy(requests, max(1, capacity // HASHED_TOKENS), name)
            share = rates["hit_rate_tokens"] / best["hit_rate_tokens"] if best["hit_rate_tokens"] else 0.0
            rows.append({"capacity_tokens": capacity, "policy": name, **rates, "of_unlimited": share})
    return {"unlimited": best, "replay_s": seconds, "rows": rows}


# --- to run and to read -------------------------------------------------------------------------------------------------------


def run(what: str, trace: str | None = None, count: int | None = None) -> dict[str, Any]:
    """Compute the figures of `minillm bench paging` or `prefix`: of a trace file, or of this project's profile of it.

    count: only so many requests, the first.
    """
    jobs: dict[str, Any] = {"paging": (read_azure, "azure_conv", waste), "prefix": (read_mooncake, "mooncake_conv", prefix)}
    read, profile, replay = jobs[what]
    requests = read(trace)[:count] if trace else draw(load_profile(profile), count)
    source = str(trace) if trace else f"drawn from the profile {profile}: {load_profile(profile)['source']}"
    return {"source": source, "requests": len(requests), what: replay(requests)}


def table(result: dict[str, Any]) -> str:
    """Format what `run` returned, with its source."""
    body = waste_table(result["paging"]) if "paging" in result else prefix_table(result["prefix"])
    return f"{result['requests']:,} requests, {result['source']}\n{body}"


def waste_table(result: dict[str, Any]) -> str:
    rows = [[way, f"{r['waste']:.2%}", f"{r['mean_tokens_reserved']:,.0f}", f"{r['fits']:.1f}×"] for way, r in result.items()]
    return terminal.table(["", "waste", "tokens held for one", "requests in the same memory"], rows)


def prefix_table(result: dict[str, Any]) -> str:
    best = result["unlimited"]
    rows = [["unlimited", "", f"{best['hit_rate_tokens']:.1%}", f"{best['hit_rate_mean']:.1%}", "100%"]]
    for r in result["rows"]:
        rates = f"{r['hit_rate_tokens']:.1%}", f"{r['hit_rate_mean']:.1%}", f"{r['of_unlimited']:.0%}"
        rows.append([f"{r['capacity_tokens']:,}", r["policy"], *rates])
    paper = f"Mooncake's paper: LRU of 3M tokens, 41% of unlimited. The unlimited replay took {result['replay_s']:.1f} s."
    head = ["capacity", "policy", "of tokens", "mean of requests", "of unlimited"]
    return f"{terminal.table(head, rows, '><')}\n{paper}"
