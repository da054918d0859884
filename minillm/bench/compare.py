"""Measure engines in turn, in one run, and report ratios: single absolute times on a shared machine mean little.

Each round (rounds.py) asks every engine once; a figure is the median over rounds, a ratio the median of the ratios within each
round. The prompts are random tokens, the same for all engines of a round and new in the next, so that no cache knows them. The
ceilings are measured first.
"""

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minillm.bench.agreement import agreements
from minillm.bench.machine import Machine
from minillm.bench.rounds import in_turn
from minillm.bench.worker import workers
from minillm.costs.memory import kv_bits
from minillm.costs.time import decode_time
from minillm.errors import MiniLLMError
from minillm.metrics.events import ARRIVED, TOKEN, Event, EventLog, tpot, ttft
from minillm.model.config import ModelConfig


def compare(
    path: str | Path, config: ModelConfig, measure: Callable[[], Machine], engines: Sequence[str], prompt_tokens: int,
    new_tokens: int, batch: int, rounds: int, threads: int, backend: str | None = None, bits: float = 32, kv: str = "float32",
    activations: str = "exact",
) -> dict[str, Any]:
    """Run all engines over the same prompts. -> dict of figures, ratios to the first engine, and ceilings at `bits` a weight.

    measure() -> Machine: asked before and after the run; the better of the two is the ceiling.
    """
    check_sizes(config, prompt_tokens, new_tokens, batch, rounds)
    draw, machine = Prompts(config.vocab_size, batch, prompt_tokens), measure()
    with workers(engines, path, threads, backend=backend, kv=kv, activations=activations) as asked:
        for name, worker in asked.items():
            worker.ask(prompts=[p[:8] for p in draw(name)], steps=1)  # warm up: first-use costs are not speed

        def ask(name):
            return speeds(asked[name].ask(prompts=draw(name), steps=new_tokens), prompt_tokens, new_tokens, batch)

        results = in_turn(engines, rounds, ask)
        agreed = agreements(asked, path, config.context_length)
    machine = machine.better(measure())
    return {
        "model": config.name,
        "prompt_tokens": prompt_tokens,
        "new_tokens": new_tokens,
        "batch": batch,
        "threads": threads,
        "kv": kv,
        "activations": activations,
        "rounds": rounds,
        "engines": {name: figures(results[name], asked[name].loaded) for name in engines},
        "ratios": {f"to {peer}": ratios(results[engines[0]], results[peer]) for peer in engines[1:]},
        "agreement": agreed,
        "ceiling": ceilings(config, machine, prompt_tokens, new_tokens, batch, bits, kv, activations),
        "machine": machine.json(),
    }


class Prompts:
    """Draw random tokens: the n-th call is the same for every engine, and no two calls of one are. row: of a table."""

    def __init__(self, vocab_size, batch, tokens, row=0):
        self.vocab_size, self.shape, self.row, self.calls = vocab_size, (batch, tokens), row, Counter()

    def __call__(self, name):  # -> [[token]]
        self.calls[name] += 1
        return np.random.default_rng([self.row, self.calls[name]]).integers(0, self.vocab_size, self.shape).tolist()


def check_sizes(config: ModelConfig, prompt_tokens: int, new_tokens: int, batch: int, rounds: int) -> None:
    """Refuse sizes that cannot be measured, before anything is loaded."""
    if prompt_tokens < 1 or new_tokens < 1 or batch < 1 or rounds < 1:
        raise MiniLLMError("prompt tokens, new tokens, batch and rounds must each be at least 1.")
    if prompt_tokens + new_tokens > config.context_length:
        total = prompt_tokens + new_tokens
        raise MiniLLMError(f"{total:,} tokens a sequence do not fit the model's context of {config.context_length:,}.")


SPEEDS = ("prefill_tokens_per_s", "decode_tokens_per_s")


def speeds(answer: dict[str, Any], prompt_tokens: int, new_tokens: int, batch: int) -> dict[str, float]:
    """Compute speeds. Prefill draws the first token, decoding new_tokens more."""
    first, last = answer["prefill_s"], answer["prefill_s"] + answer["decode_s"]
    log = EventLog(events=[Event(0, ARRIVED, 0.0), Event(0, TOKEN, first), Event(0, TOKEN, last, new_tokens)])
    return {
        "prefill_tokens_per_s": batch * prompt_tokens / answer["prefill_s"],
        "decode_tokens_per_s": batch * new_tokens / answer["decode_s"],
        "ttft_s": ttft(log, 0),
        "tpot_s": tpot(log, 0),
        "peak_rss_bytes": answer["peak_rss_bytes"],
    }


def figures(  # -> medians, and the spread of the speeds
    rounds: Sequence[dict[str, Any]], loaded: dict[str, Any]
) -> dict[str, Any]:
    medians = {key: statistics.median(r[key] for r in rounds) for key in rounds[0] if key != "peak_rss_bytes"}
    spread = {f"{key}_spread": [min(r[key] for r in rounds), max(r[key] for r in rounds)] for key in SPEEDS}
    start = {key: loaded[key] for key in ("load_s", "precision")}
    return {**medians, **spread, **start, "peak_rss_bytes": max(r["peak_rss_bytes"] or 0 for r in rounds)}


def ratios(  # -> median over rounds of our speed over theirs
    ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]
) -> dict[str, float]:
    return {key: statistics.median(a[key] / b[key] for a, b in zip(ours, theirs, strict=True)) for key in SPEEDS}


def ceilings(
    config: ModelConfig, machine: Machine, prompt_tokens: int, new_tokens: int, batch: int, bits_per_weight: float = 32,
    kv: str = "float32", activations: str = "exact",
) -> dict[str, Any]:
    """Compute the machine's bounds at these widths of weights, keys and values: the slower of bytes and FLOPs."""
    context = prompt_tokens + new_tokens // 2
    width, bandwidth = kv_bits(kv, config.d_head), machine.read_bytes_per_s
    read = decode_time(config, bandwidth, bits_per_weight, context, batch, width)
    peak = machine.peak(bits_per_weight < 32, activations)
    multiply = batch * config.decode_flops(context) / peak
    return {
        "prefill_tokens_per_s": prompt_tokens * peak / config.prefill_flops(prompt_tokens),
        "decode_tokens_per_s": batch / max(read, multiply),
        "prefill_bound": "arithmetic",
        "decode_bound": "bandwidth" if read >= multiply else "arithmetic",
        "bits_per_weight": bits_per_weight,
        "flops_per_s": peak,
    }
