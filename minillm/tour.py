"""The tour: the same story, told by the same model, one optimization after another.

Each rung of the ladder generates the same greedy tokens and must get the same answer; only the time differs. The table
sets TTFT and tokens/s beside the ceiling of the machine, and the picture shows where the time of each token goes.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minillm import terminal
from minillm.bench.compare import ceilings
from minillm.bench.machine import measure_machine, peak_rss_bytes
from minillm.errors import MiniLLMError
from minillm.files import replacing
from minillm.llm import LLM
from minillm.metrics.events import TOKEN, EventLog, summary
from minillm.model.generate import generate_tokens
from minillm.model.params import SamplingParams

BEGINNING = "Once upon a time there was a little fox named Ruby. Her best friend was Max, a kind bear."
NEW_TOKENS = 48


@dataclass(frozen=True, slots=True)
class Rung:
    """One way to generate. measure(llm, prompt) -> token ids and their EventLog.

    kernels: the rung runs on the compiled backend, over the weights as the file packs them. activations: "int8" for the rung that
    rounds them; it may give other tokens, and is there only where a model loaded so is given.
    """

    name: str
    lesson: str
    idea: str
    measure: Callable
    kernels: bool = False
    activations: str = "exact"


def generation(**options: Any) -> Callable:  # -> a rung's measure
    """Run a plain greedy generation with options of `generate_tokens`."""

    def measure(llm: LLM, prompt: list[int]) -> tuple[list[int], EventLog]:
        log = EventLog()
        sequence = llm.sequence(0, prompt, SamplingParams(max_tokens=NEW_TOKENS))
        for _ in generate_tokens(llm.transformer, llm.tokenizer.eos_ids, [sequence], log, **options):
            pass
        return sequence.token_ids, log

    return measure


LADDER = (
    Rung("no cache", "01_inference", "every token computes the whole sequence again", generation(use_cache=False)),
    Rung("KV cache", "02_kv_cache", "keys and values are kept; a token costs one token", generation()),
    Rung("Numba kernels", "11_cpu_kernels", "weights are read as they are packed, by compiled code", generation(), kernels=True),
    Rung("8-bit activations", "08_activation_quantization", "bytes times bytes, faster, inexact", generation(), True, "int8"),
)


def climb(
    llm: LLM, say: Callable[[str], Any] = lambda text: None, compiled: LLM | None = None, bits: float = 32,
    rounding: LLM | None = None,
) -> dict[str, Any]:
    """Measure every rung. A rung whose tokens differ raises nothing; the table reports it.

    compiled: the same model on the compiled backend; without it, its rungs are left out. bits: what its weights take each.
    rounding: the same with 8-bit activations.
    """
    prompt = llm.tokenizer.encode(BEGINNING)
    machine = measure_machine(kernels=compiled is not None)
    climbers = {(False, "exact"): llm, (True, "exact"): compiled, (True, "int8"): rounding}
    ladder = [rung for rung in LADDER if climbers[rung.kernels, rung.activations]]
    sizes, kv = (llm.config, machine, len(prompt), NEW_TOKENS, 1), llm.transformer.kv
    tops = [ceilings(*sizes, bits if rung.kernels else 32, kv, rung.activations) for rung in ladder]
    rungs, expected = [], None
    for rung in ladder:
        say(f"measuring: {rung.name}")
        climber = climbers[rung.kernels, rung.activations] or llm
        climber.generate(prompt, SamplingParams(max_tokens=2))  # threads wake and code is loaded: that is not of the rung
        token_ids, log = rung.measure(climber, prompt)
        expected = expected or token_ids
        start, times = log.events[0].time, log.times(0, TOKEN)
        rungs.append(
            {
                "name": rung.name,
                "lesson": rung.lesson,
                "idea": rung.idea,
                "activations": rung.activations,
                "same_tokens": token_ids == expected,
                "token_times_s": [round(t - start, 6) for t in times],
                **summary(log, 0),
            }
        )
    for row, top in zip(rungs, tops, strict=True):
        row["speedup"] = row["throughput_tokens_per_s"] / rungs[0]["throughput_tokens_per_s"]
        row["ceiling_tokens_per_s"], row["bits_per_weight"] = top["decode_tokens_per_s"], top["bits_per_weight"]
        row["share_of_ceiling"] = row["decode_tokens_per_s"] / top["decode_tokens_per_s"]
    return {
        "model": llm.config.name,
        "parameters": llm.config.parameters(),
        "kv": kv,
        "rungs": rungs,
        "ceiling": tops[0],
        "machine": machine.json(),
        "peak_rss_bytes": peak_rss_bytes(),
    }


def table(result: dict[str, Any]) -> str:
    """Format the ladder as a table."""
    head = ["", "TTFT", "TPOT", "decode", "of ceiling", "speed-up", "same tokens"]
    rows = [
        [r["name"], f"{r['ttft_s'] * 1e3:,.0f} ms", f"{r['tpot_s'] * 1e3:,.1f} ms", f"{r['decode_tokens_per_s']:,.1f} tokens/s",
         f"{r['share_of_ceiling']:.0%}", f"{r['speedup']:.1f}x", same(r)]
        for r in result["rungs"]
    ]  # fmt: skip
    lines = [terminal.table(head, rows, "<>>>>><")]
    speed = result["machine"]["read_bytes_per_s"] / 1e9
    tops = {r["bits_per_weight"]: r["ceiling_tokens_per_s"] for r in result["rungs"]}
    each = ", ".join(f"{top:,.1f} tokens/s at {bits:.3g} bits a weight" for bits, top in tops.items())
    lines.append(f"Ceiling: this machine's {speed:,.1f} GB/s over the bytes that a token must read: {each}.")
    return "\n".join(lines)


def same(rung: dict[str, Any]) -> str:
    """Say whether a rung gave the tokens of the first. One that rounds may give others."""
    return "yes" if rung["same_tokens"] else "NO: a bug" if rung["activations"] == "exact" else "no: inexact"


def picture(result: dict[str, Any]) -> Any:  # -> Figure
    """Plot throughput under its ceiling (left), and the arrival of each token (right)."""
    from minillm import plots

    rungs, top = result["rungs"], result["rungs"][-1]["ceiling_tokens_per_s"]
    fig, (left, right) = plots.figure(2)
    plain, last = rungs[0], rungs[-1]
    gain = last["decode_tokens_per_s"] / plain["decode_tokens_per_s"]
    plots.throughput_plot(
        left,
        {r["name"]: r["decode_tokens_per_s"] for r in rungs},
        f"{last['name']}: {gain:.1f} times the tokens per second",
        (top, f"ceiling = bandwidth / bytes per token at {last['bits_per_weight']:.3g} bits a weight"),
    )
    for i, r in enumerate(rungs):
        plots.series(right, i, range(1, len(r["token_times_s"]) + 1), r["token_times_s"], r["name"])
    title = "The pace of an answer, from its first token on"
    plots.label(right, title, "token of the answer", "time since request (s)")
    plots.legend(right)
    return fig


def write(result: dict[str, Any], folder: str | Path) -> tuple[Path, Path]:  # dict, path -> (png, json)
    """Put tour.png and tour.json into a folder, each whole or not at all."""
    from minillm import plots

    png, data = Path(folder) / "tour.png", Path(folder) / "tour.json"
    with replacing(png) as file:
        plots.save(picture(result), file)
    with replacing(data) as file:
        file.write((json.dumps(result, indent=1) + "\n").encode())
    return png, data


def writable(folder: str | Path) -> None:
    """Make the folder, before minutes of measuring. MiniLLMError where it cannot be made or written to."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "tour.json.part").open("ab").close()
        (Path(folder) / "tour.json.part").unlink()
    except (OSError, ValueError) as error:
        raise MiniLLMError(f"--out {str(folder)[:100]!r}: {getattr(error, 'strerror', None) or error}.") from None
