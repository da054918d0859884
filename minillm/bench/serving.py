"""What the engine costs beside the model, and what batch invariance costs within it: each a ratio of two times of one run.

    overhead   (step - forward) / step       plan, sampling, text, log: all that is not the model
    sampling   (overhead - overhead of greedy steps) / step     a draw for each sequence, by top-p alone, and with top-k
    slowdown   invariant step / step         the price of one order of additions (backends/invariant.py)

Medians over the steps: a step that another process interrupted says nothing. With --peers: our server beside others
(servers.py).
"""

import time
from statistics import median
from typing import Any

import numpy as np

from minillm.backends.invariant import invariant_model
from minillm.engine.engine import Engine
from minillm.llm import LLM
from minillm.model.params import SamplingParams
from minillm.model.transformer import Segment
from minillm.scheduler.scheduler import SchedulerConfig

SAMPLED: dict[str, dict[str, Any]] = {
    "top-p": {"temperature": 0.8, "top_p": 0.95},
    "top-k and top-p": {"temperature": 0.8, "top_k": 40, "top_p": 0.95},
    "temperature": {"temperature": 0.8},
}


def overhead(  # -> {"step_s", "forward_s", "overhead_s", "overhead"}
    llm: LLM, batch: int = 16, prompt_tokens: int = 32, steps: int = 40, **params: Any
) -> dict[str, float]:
    """Measure decode steps of an engine with so many sequences, and the part of them outside the forward pass."""
    tokens = batch * (prompt_tokens + steps + 8)
    engine = Engine(llm, SchedulerConfig(num_blocks=tokens // 16 + 4 * batch, max_sequences=batch, max_tokens_per_step=tokens))
    transformer, inside = engine.executor.transformer, []

    class Timed:
        config, ops = transformer.config, transformer.ops

        def logits(self, segments: Any) -> Any:
            began = time.perf_counter()
            logits = transformer.logits(segments)
            inside.append(time.perf_counter() - began)
            return logits

    timed: Any = Timed()
    engine.executor.transformer = timed
    rng = np.random.default_rng(0)
    for _ in range(batch):
        prompt = rng.integers(0, llm.config.vocab_size, prompt_tokens).tolist()
        engine.add(prompt, SamplingParams(max_tokens=steps + 2, ignore_eos=True, **params))
    whole = []
    while engine.has_work:
        began = time.perf_counter()
        engine.step()
        whole.append(time.perf_counter() - began)
    step, forward = median(whole[1:-1]), median(inside[1:-1])  # the first is prefill, in the last all finish
    beside = median(a - b for a, b in zip(whole[1:-1], inside[1:-1], strict=True))
    return {"step_s": step, "forward_s": forward, "overhead_s": beside, "overhead": beside / step}


def slowdown(  # -> {name: seconds of the fast one, of the invariant one, ratio}
    llm: LLM, batch: int = 16, prompt_tokens: int = 128, steps: int = 20
) -> dict[str, float]:
    """Measure prefill of one prompt, and a decode step of a batch, with the fast operations and with the invariant ones."""
    rng = np.random.default_rng(0)
    out: dict[str, Any] = {}
    prompt = rng.integers(0, llm.config.vocab_size, prompt_tokens).tolist()
    seconds = {}
    for name, model in (("fast", llm.transformer), ("invariant", invariant_model(llm.transformer))):
        caches = [model.new_cache(prompt_tokens + steps) for _ in range(batch)]
        prefills, decodes = [], []
        for cache in caches:
            began = time.perf_counter()
            model.forward([Segment(prompt, 0, cache, "last")])
            prefills.append(time.perf_counter() - began)
        for _ in range(steps):
            began = time.perf_counter()
            model.forward([Segment([1], cache.length, cache) for cache in caches])
            decodes.append(time.perf_counter() - began)
        seconds[name] = {"prefill": median(prefills), "decode": median(decodes)}
    for what in ("prefill", "decode"):
        fast, slow = seconds["fast"][what], seconds["invariant"][what]
        out |= {f"{what}_s": fast, f"{what}_invariant_s": slow, f"{what}_slowdown": slow / fast}
    return out


def run(llm: LLM, batch: int = 16, steps: int = 40) -> dict[str, Any]:
    """Measure both, for so many sequences."""
    engine, drawn = overhead(llm, batch, steps=steps), {}
    for name, params in SAMPLED.items():
        found = overhead(llm, batch, steps=steps, seed=0, **params)
        drawn[name] = {"sampling_s": found["overhead_s"] - engine["overhead_s"], "step_s": found["step_s"]}
        drawn[name]["share"] = drawn[name]["sampling_s"] / found["step_s"]
    invariant = slowdown(llm, batch, steps=max(1, steps // 2))
    return {"model": llm.config.name, "batch": batch, "engine": engine, "sampling": drawn, "invariant": invariant}


def beside_peers(  # names with commas between, (int, …) -> dict, [peer]
    path, wanted, load, rounds, backend, kv, threads, activations="exact"
):
    """Measure our server and others' under one load."""
    from minillm.bench import servers
    from minillm.bench.peers import SERVERS, chosen

    peers = chosen(wanted, SERVERS)
    return servers.run(path, servers.Load(*load), rounds, peers, backend, kv, threads, activations), peers


def table(result: dict[str, Any]) -> str:
    """Format a line for the engine, one for invariance; or a table of servers."""
    if "servers" in result:
        from minillm.bench import servers

        return servers.table(result)
    engine, invariant = result["engine"], result["invariant"]
    each = result["sampling"].items()
    drawn = "; ".join(f"{name} {found['sampling_s'] * 1e3:.2f} ms, {found['share']:.1%} of a step" for name, found in each)
    return (
        f"{result['model']}, {result['batch']} sequences\n"
        f"engine: {engine['overhead_s'] * 1e3:.2f} ms of a step of {engine['step_s'] * 1e3:.1f} ms are not the model's: "
        f"{engine['overhead']:.1%}\n"
        f"sampling beside greedy steps: {drawn}\n"
        f"batch-invariant mode: decode takes {invariant['decode_slowdown']:.2f} times as long, "
        f"prefill {invariant['prefill_slowdown']:.2f} times"
    )
