"""`minillm bench busy`: what an engine keeps of its quiet pace beside other programs, and how even its steps stay.

    kept     median over the rounds of (tokens/s beside the neighbours) / (tokens/s of the same engine, quiet, in the same round)
    p99      of a step's time beside the neighbours, as a multiple of the median step there

Neighbours are of three kinds, one loop or product for each core: loops of low priority, as a download or an indexer; a product of
matrices, as a notebook beside it; and loops of our own priority, where a fair share is half. Ours stands beside peers, each in a
process of its own.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from minillm.backends import get_backend
from minillm.bench.compare import check_sizes
from minillm.bench.machine import available_cores
from minillm.bench.peers import ENGINES, chosen
from minillm.bench.rounds import in_turn
from minillm.bench.worker import workers
from minillm.model.load import read_config, resolve_backend
from minillm.terminal import say

LOOP = "while True: pass"
PRODUCT = "import numpy as np\nx = np.ones((1536, 1536), np.float32)\nwhile True: x @ x"
QUIET = "quiet"
NEIGHBOURS = {  # name -> (program, its nice value, one for each core or one for all)
    QUIET: None,
    "loops, nice 10": (LOOP, 10, True),
    "product, nice 5": (PRODUCT, 5, False),
    "loops, nice 0": (LOOP, 0, True),
}


def peers(wanted: str | None = None) -> list[str]:  # names with commas between -> names of engines
    """Choose peers that tell the time of each step: those asked for, else all that are installed."""
    return chosen(wanted, {name: ENGINES[name] for name in ("llama.cpp", "OpenVINO")})


@contextmanager
def beside(name: str, cores: int) -> Iterator[None]:
    """Run neighbours while the block runs."""
    with ExitStack() as stack:
        if neighbours := NEIGHBOURS[name]:
            program, nice, each = neighbours
            command = [sys.executable, "-c", f"import os\nos.nice({nice})\n{program}"]
            environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
            for _ in range(cores if each else 1):
                process = subprocess.Popen(command, env=environment)
                stack.callback(process.communicate)
                stack.callback(process.kill)
            time.sleep(0.5)  # until they run
        yield


def run(
    path: Path, batches: Sequence[int], prompt_tokens: int, new_tokens: int, rounds: int, backend: str | None = "auto",
    threads: int | None = None, peers: Sequence[str] = ()
) -> dict[str, Any]:
    """Measure ours and `peers`: quiet and beside each kind of neighbour, in turn. Only steps of decoding count."""
    config, backend = read_config(path), resolve_backend(backend, path)
    check_sizes(config, prompt_tokens, new_tokens, max(batches), rounds)
    threads, result = threads or available_cores(), {}
    names = ["minillm", *peers]
    for batch in batches:
        prompts = np.random.default_rng(0).integers(0, config.vocab_size, (batch, prompt_tokens)).tolist()
        with workers(names, path, threads, backend=backend, kv=get_backend(backend).kv_dtype) as asked:
            for worker in asked.values():
                worker.ask(prompts=prompts, steps=new_tokens)  # compiled, and with the prompts in its cache
            cases = [(neighbours, name) for neighbours in NEIGHBOURS for name in names]

            def measure(case: Any, asked: Any = asked, prompts: Any = prompts) -> Any:
                with beside(case[0], available_cores()):
                    again = {"again": True} if ENGINES[case[1]].again else {}
                    return asked[case[1]].ask(prompts=prompts, steps=new_tokens, **again)["step_s"]

            steps = in_turn(cases, rounds, measure, what=f"batch {batch}: ")
        result[batch] = {name: {n: figures(steps[n, name], steps[QUIET, name], batch) for n in NEIGHBOURS} for name in names}
    say("")
    return {"model": config.name, "backend": backend, "threads": threads, "rounds": rounds, "batches": result}


def figures(rounds: Any, quiet: Any, batch: int) -> dict[str, Any]:  # seconds of each step, by round -> what the table shows
    kept = [sum(q) / sum(steps) for steps, q in zip(rounds, quiet, strict=True)]
    everything = [step for steps in rounds for step in steps]
    p50, p99 = np.percentile(everything, [50, 99]).tolist()
    return {
        "tokens_per_s": statistics.median(batch * len(steps) / sum(steps) for steps in rounds),
        "kept": statistics.median(kept),
        "kept_least": min(kept),
        "p50_s": p50,
        "p99_s": p99,
    }


def table(result: dict[str, Any]) -> str:
    """Format a line for each batch, neighbour and engine."""
    lines = [f"{result['model']}: {result['threads']} threads, {result['rounds']} rounds"]
    for batch, engines in result["batches"].items():
        lines += ["", f"{'batch ' + str(batch):16} {'':14} {'tokens/s':>9} {'kept':>5} {'least':>6} {'p50 ms':>8} {'p99':>6}"]
        for neighbours in NEIGHBOURS:
            for name, found in engines.items():
                f = found[neighbours]
                kept = f"{f['kept']:5.2f} {f['kept_least']:6.2f}" if neighbours != QUIET else " " * 12
                far = f["p99_s"] / f["p50_s"]
                lines.append(f"{neighbours:16} {name:14} {f['tokens_per_s']:9,.1f} {kept} {f['p50_s'] * 1e3:8.1f} {far:5.1f}x")
    return "\n".join(lines)
