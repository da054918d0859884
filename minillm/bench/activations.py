"""Methods × outlier size in one table: what weight-and-activation quantization costs, and what outliers have to do with it.

A small model has few outliers, so some are made: `with_activation_outliers` enlarges 2% of the channels behind each norm so many
times, and divides the weights that take them. The model computes the same (row `float` says how nearly), and rounds worse. × 1 is
the model as it is. Statistics come from training stories, figures from held-out ones, each read from its beginning beside the
original; all on NumPy, where every method is simulated (calibration/activations.py).

    KL                      of the method's predictions from the original's, in nats, ± standard error
    less naive's            the same less that of the naive method with the same scales (static, or else dynamic), token by token
    perplexity / float      paired as well: within noise of 1 is what LLM.int8() claims

Injected outliers lie in the norms' gains. QuaRot folds those into the weights before it rotates, so it never meets them: the row
`rotated`, which turns the activations themselves, shows what a rotation does about an outlier.
"""

import copy
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray as Array

from minillm import terminal
from minillm.bench.quality import document_windows, score_windows, text_ids
from minillm.calibration.activations import ALPHA, METHODS, Method, simulated, smoothed
from minillm.calibration.collect import chunks_of, collect
from minillm.calibration.folding import with_activation_outliers
from minillm.calibration.rotating import rotate_model
from minillm.calibration.statistics import ActivationStatistics
from minillm.calibration.texts import story_texts
from minillm.errors import MiniLLMError, did_you_mean
from minillm.llm import LLM
from minillm.metrics.perplexity import Scores, mean, perplexity_ratio
from minillm.model.transformer import Transformer
from minillm.quantization.llm_int8 import outlier_columns
from minillm.training.prepare import END_OF_TEXT

CONTEXT = 1024  # tokens of a story that are read at once; few are longer
CHUNKS, CHUNK = 16, 512  # of calibration: 8,192 tokens
ROOM = 4 << 30  # bytes of float32 weights in memory at once
FLOAT = "float"


def run(
    path: Path, methods: Sequence[str] = tuple(METHODS), outliers: Sequence[int] = (1, 10, 20, 50), documents: int | None = None,
    alpha: float = ALPHA,
) -> dict[str, Any]:  # fmt: skip
    """Measure. outliers: how many times as large. documents: of the held-out ones, all by default. alpha: SmoothQuant's.

    MiniLLMError for methods that there are not, and an alpha outside 0 … 1.
    """
    if unknown := [name for name in methods if name not in METHODS]:
        raise MiniLLMError(f"no method of the table is called {unknown[0][:40]!r}; {did_you_mean(unknown[0], METHODS)}")
    llm, texts = LLM(path, "numpy"), story_texts()
    told = texts.held_out_documents[:documents]
    ids = [text_ids(llm.tokenizer, document + END_OF_TEXT) for document in told]
    pieces = document_windows(ids, min(CONTEXT, llm.config.context_length))
    chunks = chunks_of(llm.tokenizer, texts.calibration, min(CHUNK, llm.config.context_length), CHUNKS)
    names = [FLOAT, *dict.fromkeys(methods)]
    at_once = max(1, ROOM // (4 * llm.config.parameters()))
    groups = [names[i : i + at_once] for i in range(0, len(names), at_once)]
    rows, sizes = [], []
    with terminal.bar(len(pieces) * len(groups) * len(outliers), "windows", what="quality") as bar:
        for times in outliers:
            models = Models(with_activation_outliers(llm.transformer, times) if times > 1 else llm.transformer, chunks, alpha)
            sizes.append({"times": times} | models.outliers())
            scores: dict[str, Scores] = {}
            for group in groups:
                made = [with_transformer(llm, models.make(name)) for name in group]
                scores |= zip(group, score_windows(made, pieces, llm, bar.update), strict=True)
            rows += [{"method": name, "times": times} | figures(name, scores) for name in names]
    return {"model": llm.config.name, "parameters": llm.config.parameters(), "alpha": alpha, "documents": len(told),
            "calibration_tokens": chunks.size, "context": CONTEXT, "scored_tokens": rows[0]["tokens"], "outliers": sizes,
            "rows": rows}  # fmt: skip


class Models:
    """A model with outliers, and what methods make of it; statistics are collected when a method first asks for them."""

    def __init__(self, transformer: Transformer, chunks: np.ndarray, alpha: float) -> None:
        self.chunks, self.alpha = chunks, alpha
        self.changed = {"": transformer}
        self.statistics: dict[str, ActivationStatistics] = {}

    def seen(self, before: str) -> ActivationStatistics:
        """The statistics of a changed model on the calibration text."""
        if before not in self.statistics:
            collect(self.model(before), self.chunks, found := ActivationStatistics())
            self.statistics[before] = found
        return self.statistics[before]

    def model(self, before: str) -> Transformer:
        """The model behind a method's change."""
        if before not in self.changed:
            plain = self.changed[""]
            smooth = before == "smooth"
            self.changed[before] = smoothed(plain, self.seen(""), self.alpha) if smooth else rotate_model(plain)
        return self.changed[before]

    def make(self, name: str) -> Transformer:
        """The model of a row."""
        if name == FLOAT:
            return self.changed[""]
        method: Method = METHODS[name]
        return simulated(self.model(method.before), method, self.seen(method.before) if method.calibrated else None)

    def outliers(self) -> dict[str, float]:
        """Tell how large outliers are, the largest |x| over the root mean square, and how much LLM.int8() leaves in float."""
        shares: dict[str, Array] = {}

        def see(name: str, x: Array) -> None:
            shares[name] = shares.get(name, 0) | outlier_columns(x)

        collect(self.changed[""], self.chunks[:1], see)
        return {
            "peak_behind_norms": max(seen.peak for name, seen in self.seen("").items() if behind_norm(name)),
            "peak_elsewhere": max(seen.peak for name, seen in self.seen("").items() if not behind_norm(name)),
            "float_columns_behind_norms": float(np.mean([x.mean() for name, x in shares.items() if behind_norm(name)])),
            "float_columns_elsewhere": float(np.mean([x.mean() for name, x in shares.items() if not behind_norm(name)])),
        }


def behind_norm(name: str) -> bool:  # "blk.3.ffn_down.weight"
    """Whether what flows into a matrix comes from a norm, where outliers were injected; else from attention or SwiGLU."""
    return name.split(".")[-2] not in ("attn_output", "ffn_down")


def with_transformer(llm: LLM, transformer: Transformer) -> LLM:
    """Make an LLM of the same tokenizer with another model."""
    made = copy.copy(llm)
    made.transformer = transformer
    return made


def figures(name: str, scores: dict[str, Scores]) -> dict[str, Any]:
    """Sum up a row, beside the original and beside its naive method, if that was measured."""
    own = scores[name]
    ratio = perplexity_ratio(own.losses, own.original_losses)
    found = asdict(own.quality) | {"perplexity_ratio": ratio.value, "perplexity_ratio_error": ratio.error}
    naive = METHODS[name].naive if name in METHODS else ""
    if naive in scores:
        found["kl_less_naive"], found["kl_less_naive_error"] = mean(own.kl - scores[naive].kl)
    return found


def table(result: dict[str, Any]) -> str:
    head = ["outliers", "method", "KL (nats)", "P99", "less naive's", "same choice", "perplexity / float"]
    rows, before = [], None
    for r in result["rows"]:
        rows.append([
            f"× {r['times']}" if r["times"] != before else "", r["method"],
            f"{r['kl']:.6f} ± {r['kl_error']:.6f}", f"{r['kl_99']:.4f}",
            f"{r['kl_less_naive']:+.6f} ± {r['kl_less_naive_error']:.6f}" if "kl_less_naive" in r else "",
            f"{r['agreement']:.2%} ± {r['agreement_error']:.2%}",
            f"{r['perplexity_ratio']:.5f} ± {r['perplexity_ratio_error']:.5f}",
        ])  # fmt: skip
        before = r["times"]
    def said(o: dict[str, Any], where: str) -> str:
        return f"{o['peak_' + where]:.0f} and {o['float_columns_' + where]:.1%}"

    norms = ", ".join(f"{said(o, 'behind_norms')} (× {o['times']})" for o in result["outliers"])
    return "\n".join([
        f"{result['model']}: {result['scored_tokens']:,} tokens of {result['documents']} held-out stories; statistics from "
        f"{result['calibration_tokens']:,} tokens of others; α = {result['alpha']:g}",
        terminal.table(head, rows, "<<"),
        f"Largest |x| over its root mean square, and columns that LLM.int8() keeps float in {CHUNK} tokens: "
        f"behind norms {norms}; elsewhere, where they are the model's own, {said(result['outliers'][0], 'elsewhere')}.",
    ])  # fmt: skip
