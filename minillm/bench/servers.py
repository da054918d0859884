"""Our server and others' under one load: `minillm bench serving --peers`.

    closed loop: so many users, each sends its next request when its last has ended; so many tokens in, so many out

Every server is a process of its own (peers/servers.py). All are started first, and then take turns: an idle one waits for its
socket. Prompts are exact token ids, the same for all servers of a round and new in the next, so that no prefix cache helps; ends
of text are ignored, so that answers are of equal length. TTFT includes connecting; TPOT = (E2E - TTFT) / (tokens - 1).
"""

import asyncio
import contextlib
import statistics

from minillm import terminal
from minillm.backends import get_backend
from minillm.bench.machine import available_cores
from minillm.bench.peers.servers import OURS, Load, serving
from minillm.bench.rounds import in_turn
from minillm.errors import MiniLLMError
from minillm.load import generator, workload
from minillm.load.client import Client
from minillm.model.load import read_config, resolve_backend
from minillm.terminal import say

PERCENTILES = ("p50", "p90", "p99")


def send(url, load, vocab_size, seed):  # -> the report of a load test
    """Send a round of requests, and wait for all answers. MiniLLMError where one has none."""
    client = Client(url, options={"ignore_eos": True})
    requests = workload.fixed(load.requests, load.prompt_tokens, load.new_tokens)
    middle = vocab_size // 4, max(vocab_size // 4 + 1, 3 * vocab_size // 4)  # special tokens are at one end, or at the other

    async def under_way():
        try:
            return await generator.run(client, requests, concurrency=load.concurrency, seed=seed, vocabulary=middle)
        finally:
            client.close()

    test = asyncio.run(under_way())
    found = generator.report(test)
    if found["errors"]:
        message = next(outcome.message for outcome in test.outcomes.values() if outcome.error)
        raise MiniLLMError(f"{url}: of {load.requests} requests {sum(found['errors'].values())} had no answer: {message}")
    return found


def run(  # path, Load, int, [name] -> dict, ready for JSON
    path, load, rounds, peers=(), backend="auto", kv=None, threads=None, activations="exact"
):
    """Measure ours and `peers` in turn."""
    config, threads = read_config(path), threads or available_cores()
    backend = resolve_backend(backend, path, activations) or "numpy"
    ours = {"backend": backend, "kv": kv or get_backend(backend).kv_dtype, "activations": activations}
    if load.new_tokens < 2:
        raise MiniLLMError(f"--new-tokens must be at least 2 for a time per token, found {load.new_tokens}.")
    if (tokens := load.prompt_tokens + load.new_tokens) > config.context_length:
        raise MiniLLMError(f"{tokens:,} tokens a request do not fit the model's context of {config.context_length:,}.")
    names, turns = [OURS, *peers], dict.fromkeys([OURS, *peers], 0)
    with contextlib.ExitStack() as stack:
        running = {}
        for name in names:
            say(f"starting {name}")
            running[name] = stack.enter_context(serving(name, path, threads, load, ours))
            send(running[name].url, Load(1, 1, 8, 2), config.vocab_size, 0)  # warm up: first-use costs are not speed

        def measure(name):
            turns[name] += 1
            return send(running[name].url, load, config.vocab_size, turns[name])

        found = in_turn(names, rounds, measure)
    say("")
    about = {"model": config.name, **ours, "threads": threads, "rounds": rounds}
    about |= {"concurrency": load.concurrency, "requests": load.requests}
    about |= {"prompt_tokens": load.prompt_tokens, "new_tokens": load.new_tokens}
    servers = {name: figures(found[name]) | {"start_s": at.start_s, "precision": at.precision} for name, at in running.items()}
    ratios = {f"to {peer}": ratio(found[OURS], found[peer]) for peer in peers}
    return about | {"servers": servers, "ratios": ratios}


def figures(reports):  # [report of each round] -> medians
    """Take medians over the rounds of throughput, and of the percentiles within each."""
    found = {key: statistics.median(r[key] for r in reports) for key in ("requests_per_s", "new_tokens_per_s")}
    for name in ("ttft_s", "tpot_s"):
        found |= {f"{name}_{p}": statistics.median(r[name][p] for r in reports) for p in PERCENTILES}
    return found


def ratio(ours, theirs):  # -> median over rounds of our tokens/s over theirs
    return statistics.median(a["new_tokens_per_s"] / b["new_tokens_per_s"] for a, b in zip(ours, theirs, strict=True))


def table(result):  # -> text
    """Format a row for each server."""
    r, rows = result, []
    for name, f in r["servers"].items():
        against = r["ratios"].get(f"to {name}")
        times = [f"{1e3 * f[f'{kind}_s_{p}']:,.1f}" for kind in ("ttft", "tpot") for p in PERCENTILES]
        speed = f"{f['requests_per_s']:.2f}", f"{f['new_tokens_per_s']:,.1f}", f"{against:.2f}" if against else ""
        rows.append([name, *speed, *times, f"{f['start_s']:.1f}", f["precision"]])
    times = ["TTFT p50 ms", "p90", "p99", "TPOT p50 ms", "p90", "p99"]
    head = ["", "requests/s", "tokens/s", "ours/it", *times, "start s", "computes in"]
    about = (
        f"{r['model']}: {r['concurrency']} at a time, {r['requests']} requests, {r['prompt_tokens']} tokens in, "
        f"{r['new_tokens']} out, {r['threads']} threads, medians of {r['rounds']} rounds"
    )
    return "\n".join([about, terminal.table(head, rows, "<" + ">" * (len(head) - 2) + "<")])
