"""`minillm bench training`: a training step of a model, ours and torch's in turn in one run, under the machine's ceiling.

A step is forward, backward, clipping and AdamW, in float32, on the same batch of random tokens; the weights come from the same
file. Each engine has a process of its own (worker.py). The share of peak counts the mathematics alone (model FLOPs utilization:
forward, and twice that backward) over the speed of a large matrix product. Chowdhery et al. 2022, arXiv:2204.02311, appendix B.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from minillm import terminal
from minillm.bench.machine import measure_machine
from minillm.bench.rounds import in_turn
from minillm.bench.worker import workers
from minillm.model.load import read_config
from minillm.terminal import say


def run(path: Path, batch: int, length: int, rounds: int, threads: int, peers: Sequence[str]) -> dict[str, Any]:
    """Alternate; report medians over the rounds, and the ratio round by round."""
    config, machine = read_config(path), measure_machine()
    names = ["training", *(["torch training"] if peers else [])]
    with workers(names, path, threads or machine.cores) as asked:
        answers = in_turn(names, rounds, lambda name: asked[name].ask(batch=batch, length=length, steps=3))
    say("")
    times = {name: [answer["step_s"] for answer in given] for name, given in answers.items()}
    flops, tokens = config.training_flops(batch * length, length), batch * length
    engines = {
        name: {
            "step_s": median(t),
            "tokens_per_s": tokens / median(t),
            "peak_share": flops / median(t) / machine.flops_per_s,
            "first_loss": answers[name][0]["loss"],
        }
        for name, t in times.items()
    }
    ratios = [b / a for a, b in zip(times["training"], times.get("torch training", ()), strict=False)]
    about = {"model": config.name, "parameters": config.parameters(), "batch": batch, "length": length, "rounds": rounds}
    return about | {"flops": flops, "peak_flops_per_s": machine.flops_per_s, "engines": engines, "ratios_to_torch": ratios}


def table(result: dict[str, Any]) -> str:
    lines = [f"{result['model']}, {result['parameters']:,} parameters, {result['batch']} × {result['length']} tokens a step"]
    rows = [
        ["minillm" if name == "training" else "torch", f"{e['step_s'] * 1e3:,.0f}", f"{e['tokens_per_s']:,.0f}",
         f"{e['peak_share']:.0%}", f"{e['first_loss']:.4f}"]
        for name, e in result["engines"].items()
    ]  # fmt: skip
    lines.append(terminal.table(["", "step ms", "tokens/s", "of peak", "first loss"], rows))
    if ratios := result["ratios_to_torch"]:
        low, high = min(ratios), max(ratios)
        lines.append(f"{median(ratios):.2f} × torch's speed ({low:.2f} to {high:.2f} in {len(ratios)} rounds)")
    return "\n".join(lines)
