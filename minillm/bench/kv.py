"""Quantized keys and values beside outliers: `minillm bench kv`. The model's own channels, and larger ones put into its keys.

For each format the divergence from the same model with keys and values in float32, on held-out text: KL in nats, and the share of
positions with the same first choice. All formats meet the same tokens, so two of them are compared by the differences position by
position, whose error is smaller than either's own (rot4 - int4, kivi4 - int4).

Beside it what the formats are about: the relative error of keys and of values, rounded with a scale for each channel of 32
tokens, and with a scale for each token. Injected outliers change no logit of the model in float32 (calibration/key_outliers.py).

Values ± standard error. Liu et al. 2024, arXiv:2402.02750 (KIVI); Ashkboos et al. 2024, arXiv:2404.00456 (rotations).
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray as Array

from minillm import terminal
from minillm.bench.quality import CONTEXT, score, text_ids
from minillm.cache.kinds import check_kv
from minillm.calibration.key_outliers import largest_channel, with_key_outliers
from minillm.calibration.texts import story_texts
from minillm.costs.memory import KV_NAMES, kv_bits
from minillm.llm import LLM
from minillm.metrics.perplexity import Scores, mean, windows
from minillm.model.transformer import Segment
from minillm.quantization.kivi import GROUP, per_channel, per_token
from minillm.training.prepare import END_OF_TEXT

PAIRS = (("rot4", "int4"), ("kivi4", "int4"), ("kivi4", "rot4"), ("fp8", "int8"))  # whose differences are told
WAYS = ("per_channel", "per_token")
FORMATS = KV_NAMES[1:]  # float32 is what they are held against


def run(
    path: Path, documents: int | None = None, outliers: Sequence[float] = (1, 20), formats: Sequence[str] = FORMATS
) -> dict[str, Any]:
    """Measure on so many held-out documents (None: all 200). outliers: how many times as large; 1 leaves the model's own."""
    llm = LLM(path, "numpy")
    for name in formats:
        check_kv(name, llm.config.d_head)
    told = story_texts().held_out_documents[:documents]
    ids = text_ids(llm.tokenizer, END_OF_TEXT.join([*told, ""]))
    context = min(CONTEXT, llm.config.context_length)
    pieces = len(list(windows(len(ids), context, context)))
    rows, sizes = [], []
    with terminal.bar(pieces * len(outliers), "windows", what="quality") as bar:
        for times in outliers:
            model = llm.transformer if times == 1 else with_key_outliers(llm.transformer, times)
            llms = [LLM((model.with_kv(name), llm.tokenizer)) for name in ("float32", *formats)]
            scores = dict(zip(formats, score(llms[1:], ids, context, context, llms[0], bar.update), strict=True))
            rows += [row(name, llm, own) | {"times": times} for name, own in scores.items()]
            pairs = {f"{a} - {b}": list(mean(scores[a].kl - scores[b].kl)) for a, b in PAIRS if {a, b} <= {*formats}}
            sizes.append({"times": times, "kl_difference": pairs} | rounding(llms[0], ids[: context - 1]))
    return {"model": llm.config.name, "parameters": llm.config.parameters(), "documents": len(told), "context": context,
            "scored_tokens": rows[0]["tokens"], "outliers": sizes, "rows": rows}  # fmt: skip


def row(name: str, llm: LLM, scores: Scores) -> dict[str, Any]:
    """Sum up a format."""
    return {"format": name, "bits": kv_bits(name, llm.config.d_head)} | asdict(scores.quality)


def rounding(llm: LLM, ids: Array) -> dict[str, Any]:
    """Compute relative errors of the model's keys and values, layer by layer: by bits, per channel and per token."""
    cache, whole = llm.transformer.new_cache(), len(ids) // GROUP * GROUP
    llm.transformer.forward([Segment(ids[:whole], 0, cache, "none")])
    layers = [cache.read(layer) for layer in range(llm.config.n_layers)]
    found: dict[str, Any] = {}
    for which, name in enumerate(("keys", "values")):
        found[name] = {"largest_channel": [largest_channel(kv[which]) for kv in layers]}
        for bits in (4, 2):
            each = [errors(kv[which], bits) for kv in layers]
            found[name][f"{bits}_bits"] = {"per_channel": [a for a, _ in each], "per_token": [b for _, b in each]}
    return found


def errors(x: Array, bits: int) -> tuple[float, float]:  # (groups · 32, heads, d) -> per channel, per token
    """Compute the root mean square error over the root mean square, of both ways to share a scale."""
    groups = [per_channel(x[i : i + GROUP], bits) for i in range(0, len(x), GROUP)]
    by_channel = np.concatenate([codes * scales + minima for codes, scales, minima in groups])
    codes, scales, minima = per_token(x, bits)
    size = float(np.square(x).mean())
    return tuple(float(np.sqrt(np.square(y - x).mean() / size)) for y in (by_channel, codes * scales + minima))  # type: ignore[return-value]


def said(r: dict[str, Any]) -> list[str]:  # a row -> its cells
    return [f"{r['kl']:.6f} ± {r['kl_error']:.6f}", f"{r['agreement']:.2%}", f"{r['perplexity']:.4f}"]


def table(result: dict[str, Any]) -> str:
    """Format a table for each size of outliers."""
    lines = [f"{result['model']}: {result['scored_tokens']:,} tokens of {result['documents']} held-out stories in windows of "
             f"{result['context']:,}, against keys and values in float32"]  # fmt: skip
    for found in result["outliers"]:
        times = found["times"]
        larger = f"a pair of channels of each key head {times:g} times as large"
        lines.append("\n" + ("the model's own channels" if times == 1 else larger))
        rows = [
            [r["format"], f"{r['bits']:.4g}", *said(r)]
            for r in result["rows"]
            if r["times"] == times
        ]
        lines.append(terminal.table(["", "bits", "KL (nats)", "same choice", "perplexity"], rows, "<>>>>"))
        lines += [f"KL of {pair}: {value:+.6f} ± {error:.6f}" for pair, (value, error) in found["kl_difference"].items()]
        rows = [
            [f"{kind}, {bits} bits", *(f"{np.mean(found[kind][f'{bits}_bits'][way]):.4f}" for way in WAYS)]
            for kind in ("keys", "values")
            for bits in (4, 2)
        ]
        lines.append(terminal.table(["relative error, mean of layers", "per channel", "per token"], rows, "<>>"))
    return "\n".join(lines)
