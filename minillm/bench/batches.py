"""The whole table of a model from one run: prefill of one prompt, then decode at each batch size, engines in turn.

Ours and llama.cpp keep the keys and values of their prompts from round to round, so that a round at batch 32 costs 32 tokens a
step and not 32 prompts; an engine that cannot reads new prompts each time, which is not counted. Every speed stands beside its
roofline: the bytes of a step over measured bandwidth, or its FLOPs over those of a measured matrix product, whichever is slower.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from minillm import terminal
from minillm.bench import agreement
from minillm.bench.compare import Prompts, ceilings, check_sizes
from minillm.bench.machine import Machine
from minillm.bench.peers import ENGINES
from minillm.bench.rounds import in_turn
from minillm.bench.worker import workers
from minillm.model.config import ModelConfig
from minillm.terminal import say


def compare_batches(
    path: str | Path, config: ModelConfig, measure: Callable[[], Machine], engines: Sequence[str], prompt_tokens: int,
    new_tokens: int, batches: Sequence[int], rounds: int, threads: int, backend: str | None, bits: float, kv: str,
    activations: str = "exact",
) -> dict[str, Any]:
    """-> {"rows": [one per piece of work], …}, ready for JSON. bits: stored bits per weight, as our backend reads them.

    measure() -> Machine: asked before and after the run; the better of the two is the ceiling.
    """
    check_sizes(config, prompt_tokens, new_tokens, min(batches), rounds)
    one = Prompts(config.vocab_size, 1, prompt_tokens)
    machine, found = measure(), []
    peak: dict[str, int] = {}
    with workers(engines, path, threads, backend=backend, kv=kv, activations=activations) as asked:
        for name, worker in asked.items():
            worker.ask(prompts=[one(name)[0][:8]], steps=1)  # warm up: first-use costs are not speed

        def speeds(what, tokens, seconds, work):  # work: name -> what to ask
            def measure_speed(name: str) -> float:
                answer = asked[name].ask(**work(name))
                peak[name] = max(peak.get(name, 0), answer["peak_rss_bytes"] or 0)
                return tokens / answer[seconds]

            return in_turn(engines, rounds, measure_speed, f"{what}, ")

        prefill = speeds("prefill", prompt_tokens, "prefill_s", lambda name: {"prompts": one(name), "steps": 1})
        found.append(("prefill", 1, prefill))
        for number, batch in enumerate(batches, 1):
            draw = Prompts(config.vocab_size, batch, prompt_tokens, number)
            kept = {name: draw(name) for name in engines if ENGINES[name].again}
            for name, prompts in kept.items():
                say(f"prefill for batch {batch}: {name}")
                asked[name].ask(prompts=prompts, steps=1)

            def work(name, kept=kept, draw=draw):
                again = {"prompts": kept[name], "again": True} if name in kept else {"prompts": draw(name)}
                return again | {"steps": new_tokens}

            found.append(("decode", batch, speeds(f"decode, batch {batch}", batch * new_tokens, "decode_s", work)))
        agreed = agreement.agreements(asked, path, config.context_length)
    machine, rows = machine.better(measure()), []
    for what, batch, speeds_of in found:
        top = ceilings(config, machine, prompt_tokens, new_tokens, batch, bits, kv, activations)
        rows.append(row(what, batch, speeds_of, top[f"{what}_tokens_per_s"], top[f"{what}_bound"]))
    told = ("load_s", "precision")
    loads = {n: {key: w.loaded[key] for key in told} | {"peak_rss_bytes": peak[n]} for n, w in asked.items()}
    sizes = {"prompt_tokens": prompt_tokens, "new_tokens": new_tokens, "batches": batches, "threads": threads, "rounds": rounds}
    return {
        "model": config.name,
        "backend": backend,
        "kv": kv,
        "activations": activations,
        "bits_per_weight": bits,
        **sizes,
        "rows": rows,
        "engines": loads,
        "agreement": agreed,
        "machine": machine.json(),
    }


def row(what: str, batch: int, speeds: Mapping[str, Any], top: Any, bound: Any) -> Any:
    """Make the row of one piece of work. speeds: {engine: [tokens per second, by round]}, ours first."""
    ours, *peers = speeds
    ratios = {peer: [a / b for a, b in zip(speeds[ours], speeds[peer], strict=True)] for peer in peers}
    return {
        "work": what,
        "batch": batch,
        "tokens_per_s": {name: statistics.median(s) for name, s in speeds.items()},
        "tokens_per_s_spread": {name: [min(s), max(s)] for name, s in speeds.items()},
        "ratios": {f"to {peer}": statistics.median(r) for peer, r in ratios.items()},
        "ratios_spread": {f"to {peer}": [min(r), max(r)] for peer, r in ratios.items()},
        "ceiling_tokens_per_s": top,
        "bound": bound,
        "share_of_ceiling": statistics.median(speeds[ours]) / top,
    }


def table(result: dict[str, Any]) -> str:
    """Format pieces of work as rows; for each, ours, each peer's, the ratio with its spread, and the roofline."""
    r, m = result, result["machine"]
    head, rows = ["", "roofline", "ours of it", "bound by"], []
    for i, name in reversed([*enumerate(r["engines"])]):
        head[1:1] = [f"{name} tokens/s", *(["ours/it"] if i else [])]
    for piece in r["rows"]:
        row = ["prefill" if piece["work"] == "prefill" else f"decode, batch {piece['batch']}"]
        for name, speed in piece["tokens_per_s"].items():
            row.append(f"{speed:,.1f}")
            if (ratio := piece["ratios"].get(f"to {name}")) is not None:
                low, high = piece["ratios_spread"][f"to {name}"]
                row.append(f"{ratio:.2f} ({low:.2f} to {high:.2f})")
        rows.append([*row, f"{piece['ceiling_tokens_per_s']:,.0f}", f"{piece['share_of_ceiling']:.0%}", piece["bound"]])
    lines = [
        f"{r['model']}, {r['backend']} backend, {r['activations']} activations, keys and values in {r['kv']}: "
        f"{r['prompt_tokens']} prompt tokens, {r['new_tokens']} new, "
        f"{r['threads']} threads, medians of {r['rounds']} rounds (lowest to highest)",
        terminal.table(head, rows, "<" + ">" * (len(head) - 2) + "<"),
    ]
    peak = Machine(**m).peak(r["bits_per_weight"] < 32, r["activations"])
    flops, bandwidth = f"{peak / 1e9:,.0f} GFLOP/s", f"{m['read_bytes_per_s'] / 1e9:,.1f} GB/s"
    lines.append(
        f"The roofline is {flops} of the fastest instruction in use over the FLOPs, or {bandwidth} over the bytes of a step at "
        f"{r['bits_per_weight']:.2f} bits a weight, whichever allows less; both measured in this run."
    )
    memory = ", ".join(f"{name} {f['peak_rss_bytes'] / 1e6:,.0f} MB" for name, f in r["engines"].items())
    return "\n".join([*lines, f"Peak memory: {memory}.", *agreement.lines(r)])
