"""What is rounded when a model runs, in one table: activations × keys and values, with quality, speed and memory of each.

    activations    exact, or int8: rounded before each product (backends/activations.py)
    kv             what the cache keeps keys and values in: float32, float16, int8, fp8, int4, rot4, kivi4, kivi2

Weights are the file's own in all rows, so each row stands beside exact / float32 and nothing else has changed: KL is of the
predictions at every position of held-out text, read in windows as long as the context, and by the number of tokens before a
position, for errors of keys and values may add up. A file of floats is quantized to Q8_0 first: only packed weights have products
with 8-bit activations. Speed is measured in turn, round by round; ratios are those within a round.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from minillm import terminal
from minillm.backends.activations import ACTIVATIONS, ROUNDING
from minillm.bench.quality import score, text_ids
from minillm.bench.rounds import in_turn
from minillm.bench.steps import decode_seconds, fill, prefill_seconds
from minillm.cache.kinds import without_kernels
from minillm.calibration.recipe import is_layers_matrix
from minillm.calibration.texts import story_texts
from minillm.costs.memory import KV_NAMES, kivi_window_bytes, kv_token_bytes
from minillm.errors import MiniLLMError, did_you_mean
from minillm.formats.gguf import open_gguf
from minillm.formats.requantize import requantize
from minillm.llm import LLM
from minillm.metrics.perplexity import Scores, mean, windows
from minillm.model.transformer import Transformer
from minillm.training.prepare import END_OF_TEXT

BASE = ("exact", "float32")
EDGES = (0, 64, 256, 1024, 4096, 16384)  # tokens before a position
STEPS = 12  # of decode in a round; the fastest counts

Row = tuple[str, str]  # activations, kv


def run(
    path: Path, activations: Sequence[str] = ACTIVATIONS, kvs: Sequence[str] = KV_NAMES, backend: str | None = "numba",
    documents: int | None = None, context: int = 1024, prompt_tokens: int = 512, batches: Sequence[int] = (1, 16, 32),
    rounds: int = 3, speed: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Measure each of activations × kvs. context: tokens of a window. speed: whether to measure that as well.

    MiniLLMError for names that there are not, a folder in place of a file, and sizes beyond the model's context.
    """
    for given, known in ((activations, ACTIVATIONS), (kvs, KV_NAMES)):
        if unknown := [name for name in given if name not in known]:
            raise MiniLLMError(f"no format is called {unknown[0][:40]!r}; {did_you_mean(unknown[0], known)}")
    with packed(path) as (file, types):
        base, rows = BASE[0], [(a, kv) for a in dict.fromkeys(activations) for kv in dict.fromkeys(kvs)]
        loaded = {a: LLM(file, backend, activations=a) for a in dict.fromkeys((base, *activations))}
    llm = loaded[base]
    config, room = llm.config, llm.config.context_length
    if (need := max(context, prompt_tokens + STEPS if speed else 0)) > room:
        raise MiniLLMError(f"{config.name} has a context of {room:,} tokens, found {need:,}: give a smaller --context or prompt.")
    models = {(a, kv): loaded[a].transformer.with_kv(kv) for a, kv in rows}
    told = story_texts().held_out_documents[:documents]
    scores, befores = judged(models, llm, told, context)
    found = {row: about(row, models[row]) | quality(own, befores) for row, own in zip(rows, scores, strict=True)}
    if speed:
        for row, figures in paces({BASE: llm.transformer} | models, prompt_tokens, batches, rounds).items():
            if row in found:
                found[row] |= figures
    return {"model": config.name, "parameters": config.parameters(), "types": types, "backend": llm.transformer.ops.name,
            "documents": len(told), "context": context, "scored_tokens": len(befores), "prompt_tokens": prompt_tokens,
            "batches": list(batches), "rounds": rounds, "rows": list(found.values())}  # fmt: skip


@contextmanager
def packed(path: Path) -> Iterator[tuple[Path, list[str]]]:  # -> the file itself, or its weights in Q8_0; types of the layers
    """Give a file whose layers have packed weights."""
    if path.is_dir():
        raise MiniLLMError(f"{path}: expected a .gguf file, found a folder.")
    with tempfile.TemporaryDirectory() as folder, open_gguf(path) as source:
        types = sorted({info.type.name for name, info in source.tensors.items() if is_layers_matrix(name)})
        if set(types) & set(ROUNDING):
            yield path, types
            return
        requantize(source, made := Path(folder) / "q8_0.gguf", "q8_0")
        yield made, ["Q8_0"]


def judged(  # -> of each row, and the number of tokens before each position
    models: dict[Row, Transformer], llm: LLM, documents: Sequence[str], context: int
) -> tuple[list[Scores], np.ndarray]:
    """Score rows on one long text beside exact / float32."""
    ids = text_ids(llm.tokenizer, END_OF_TEXT.join([*documents, ""]))
    pieces = list(windows(len(ids), context, context))
    befores = np.concatenate([np.arange(piece.first, piece.stop) - piece.start for piece in pieces])
    llms = [LLM((model, llm.tokenizer)) for model in models.values()]
    original = LLM((llm.transformer.with_kv(BASE[1]), llm.tokenizer))
    with terminal.bar(len(pieces), "windows", what="quality") as bar:
        return score(llms, ids, context, context, original, bar.update), befores


def quality(own: Scores, befores: np.ndarray) -> dict[str, Any]:  # befores (positions,) int
    """Sum up a row, whole and by the number of tokens before a position."""
    by_context = []
    for low, high in zip(EDGES, EDGES[1:], strict=False):
        at = (befores >= low) & (befores < high)
        if at.any():
            value, error = mean(own.kl[at])
            by_context.append({"from": low, "to": min(high, int(befores.max()) + 1), "tokens": int(at.sum()), "kl": value,
                               "kl_error": error, "agreement": float(own.agreed[at].mean())})  # fmt: skip
    return asdict(own.quality) | {"by_context": by_context}


def about(row: Row, model: Transformer) -> dict[str, Any]:
    """Count bytes: of a token's keys and values, of what a sequence keeps in full beside them, of all weights in memory."""
    activations, kv = row
    weights: list[Any] = [model.weights.embedding, model.weights.head, model.weights.norm]
    weights += [array for layer in model.weights.layers for array in (getattr(layer, field.name) for field in fields(layer))]
    return {
        "activations": activations, "kv": kv, "kernels": not without_kernels(kv, model.ops),
        "kv_bytes_per_token": kv_token_bytes(model.config, kv), "kv_window_bytes": kivi_window_bytes(model.config, kv),
        "weight_bytes": sum({id(array): array.nbytes for array in weights if array is not None}.values()),
    }  # fmt: skip


def paces(  # -> {row: medians over the rounds, and ratios to exact / float32}
    models: dict[Row, Transformer], prompt: int, batches: Sequence[int], rounds: int
) -> dict[Row, dict[str, Any]]:
    """Measure the first pass of a prompt, and the fastest step behind it at each batch size, all rows in turn."""

    def measure(row: Row) -> list[float]:  # seconds of the prompt, then of a step at each batch size
        model, seconds = models[row], [prefill_seconds(models[row], prompt)]
        full = [fill(model.new_cache(prompt + STEPS), model.config, prompt) for _ in range(max(batches))]
        for batch in batches:
            caches = [cache.fork() for cache in full[:batch]]
            seconds.append(min(decode_seconds(model, caches, STEPS)))
        return seconds

    runs = {row: times[1:] for row, times in in_turn(models, rounds + 1, measure, "speed, ").items()}  # the first warms up
    terminal.say("")
    found = {}
    for row, times in runs.items():
        first, *steps = (median(column) for column in zip(*times, strict=True))
        gains = [[b / a for a, b in zip(*pair, strict=True)] for pair in zip(times, runs[BASE], strict=True)]  # each round
        ratios = [median(column) for column in zip(*gains, strict=True)]
        found[row] = {
            "ttft_s": first, "ttft_s_spread": [min(t[0] for t in times), max(t[0] for t in times)],
            "decode_tokens_per_s": [batch / step for batch, step in zip(batches, steps, strict=True)],
            "faster_than_base": {"ttft": ratios[0]} | dict(zip(map(str, batches), ratios[1:], strict=True)),
        }  # fmt: skip
    return found


def table(result: dict[str, Any]) -> str:
    speeds = any("ttft_s" in r for r in result["rows"])  # of some, where runs were joined (bench/kept.py)
    spans = [(part["from"], part["to"]) for part in result["rows"][0]["by_context"]]
    head = ["activations", "kv", "KL (nats)", *(f"{a} to {b - 1}" for a, b in spans), "same choice", "kv/token", "weights"]
    head += ["TTFT", *(f"batch {batch}" for batch in result["batches"])] if speeds else []
    rows = []
    for r in result["rows"]:
        row = [r["activations"], r["kv"] + " *" * (not r["kernels"]), f"{r['kl']:.6f} ± {r['kl_error']:.6f}"]
        row += [f"{part['kl']:.6f}" for part in r["by_context"]]
        row += [f"{r['agreement']:.2%}", f"{r['kv_bytes_per_token']:,} B", f"{r['weight_bytes'] / 1e6:,.1f} MB"]
        if speeds and "ttft_s" not in r:
            row += [""] * (1 + len(result["batches"]))
        elif speeds:
            gain = r["faster_than_base"]
            row.append(f"{r['ttft_s'] * 1e3:,.1f} ms ({gain['ttft']:.2f}×)")
            of_batches = zip(result["batches"], r["decode_tokens_per_s"], strict=True)
            row += [f"{pace:,.0f}/s ({gain[str(batch)]:.2f}×)" for batch, pace in of_batches]
        rows.append(row)
    lines = [
        f"{result['model']}, {result['backend']} backend, layers in {', '.join(result['types'])}: {result['scored_tokens']:,} "
        f"tokens of {result['documents']} held-out stories in windows of {result['context']:,}; KL by how many tokens are before",
        terminal.table(head, rows, "<<"),
    ]
    if speeds:
        lines.append(f"TTFT of {result['prompt_tokens']} tokens; tokens/s behind as many; medians of {result['rounds']} rounds; "
                     "in brackets, how many times as fast as exact / float32 in the same round.")  # fmt: skip
    if any(r["kv_window_bytes"] for r in result["rows"]):
        window = max(r["kv_window_bytes"] for r in result["rows"])
        lines.append(f"KIVI keeps the last tokens in float16 besides: up to {window:,} B a sequence.")
    if any(not r["kernels"] for r in result["rows"]):
        lines.append(f"* {result['backend']} has no kernels for it: keys and values become float32 in each step.")
    return "\n".join(lines)
