"""Methods × bits in one table: what each costs in quality, what it saves in bytes, what it gains in speed.

Quality is that of the weights alone: all files run on NumPy, in float32, over the same held-out stories, each from its
beginning, beside the original. Every file meets the same tokens, so differences between two are taken token by token, and their
errors are those of the differences: KL less that of rtn at the same bits. Speed and bytes in memory are Numba's, where weights
stay packed; a type for which it has no kernels is in float32 there.

    bits     of the layers' matrices, scales included: exact, from the file       memory   the same, as they lie in memory
    *        the row's grid contains the one that the source was rounded to: it loses nothing, and is not compared
"""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from minillm import terminal
from minillm.backends import without_kernels
from minillm.bench.quality import document_windows, score_windows, text_ids
from minillm.bench.quantized_files import Way, fitting, holds_the_source, ways
from minillm.bench.rounds import in_turn
from minillm.bench.steps import decode_seconds, fill, prefill_seconds
from minillm.calibration.recipe import is_layers_matrix
from minillm.calibration.texts import story_texts
from minillm.errors import MiniLLMError
from minillm.formats.gguf import open_gguf
from minillm.llm import LLM
from minillm.metrics.perplexity import Scores, mean
from minillm.model.adapters import FIELDS
from minillm.model.transformer import Transformer
from minillm.training.prepare import END_OF_TEXT

CONTEXT = 1024  # tokens of a story that are read at once; few are longer
ROOM = 4 << 30  # bytes of float32 weights in memory at once
BASE = "as it is"


def run(
    path: Path, methods: Sequence[str], bits: Sequence[int], group: int = 64, documents: int | None = None, rounds: int = 3,
    speed: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Make the files, and measure them. documents: of the held-out ones, all by default. speed: whether to measure that as well.

    MiniLLMError for methods that there are not, and a folder in place of a file.
    """
    if path.is_dir():
        raise MiniLLMError(f"{path}: expected a .gguf file, found a folder.")
    with tempfile.TemporaryDirectory() as folder, open_gguf(path) as source:
        rows = list(fitting(ways(methods, bits, group), source))
        files = [Path(folder) / f"{number}.gguf" for number, _ in enumerate(rows)]
        with terminal.bar(len(rows), "files", what="quantize") as bar:
            for way, file in zip(rows, files, strict=True):
                way.make(source, file)
                bar.update()
        found = [about(way, file) for way, file in zip(rows, files, strict=True)]
        for row, way in zip(found, rows, strict=True):
            row["holds_the_source"] = holds_the_source(way, source)
        base = about(Way(BASE, 0, "", lambda source, path: None), path)
        original = LLM(path, "numpy")
        told = story_texts().held_out_documents[:documents]
        scores = judged(files, [text_ids(original.tokenizer, document + END_OF_TEXT) for document in told], original)
        base |= {"perplexity": scores[0].quality.perplexity, "perplexity_error": scores[0].quality.perplexity_error}
        for row, own in zip(found, scores[1:], strict=True):
            row |= asdict(own.quality)
        beside_rtn(found, scores[1:])
        if speed:
            for row, figures in zip([base, *found], paces([path, *files], rounds), strict=True):
                row |= figures
    config = original.config
    return {"model": config.name, "parameters": config.parameters(), "group": group, "documents": len(told), "context": CONTEXT,
            "scored_tokens": len(scores[0].losses), "base": base, "rows": found}  # fmt: skip


def about(way: Way, file: Path) -> dict[str, Any]:
    """Count bits and bytes of a file."""
    with open_gguf(file) as made:
        matrices = [info for name, info in made.tensors.items() if is_layers_matrix(name)]
        apart = sum(info.nbytes for name, info in made.tensors.items() if name.endswith(".scale"))
        weights = sum(info.size for info in matrices)
        kinds = sorted({info.type.name for info in matrices})
        return {
            "method": way.method, "bits": way.bits, "type": way.type or ", ".join(kinds), "file_bytes": file.stat().st_size,
            "bits_per_weight": 8 * (sum(info.nbytes for info in matrices) + apart) / weights,
            "kernels": not without_kernels("numba", kinds),
        }  # fmt: skip


def judged(  # documents: token ids -> of the original itself, then of each file
    files: Sequence[Path], documents: Sequence[np.ndarray], original: LLM
) -> list[Scores]:
    """Score files beside the original, as many at a time as memory has room for."""
    at_once = max(1, ROOM // (4 * original.config.parameters()))
    groups = [files[i : i + at_once] for i in range(0, len(files), at_once)] or [[]]
    pieces, found = document_windows(documents, min(CONTEXT, original.config.context_length)), list[Scores]()
    with terminal.bar(len(pieces) * len(groups), "windows", what="quality") as bar:
        for group in groups:
            llms = [LLM(file, "numpy") for file in group]
            own, *others = score_windows([original, *llms], pieces, original, bar.update)
            found += others if found else [own, *others]
    return found


def beside_rtn(rows: list[dict[str, Any]], scores: Sequence[Scores]) -> None:
    """Add to each row its mean KL less rtn's at the same bits, paired token by token."""
    plain = {row["bits"]: own.kl for row, own in zip(rows, scores, strict=True) if row["method"] == "rtn"}
    for row, own in zip(rows, scores, strict=True):
        if row["bits"] in plain and row["method"] != "rtn":
            row["kl_less_rtn"], row["kl_less_rtn_error"] = mean(own.kl - plain[row["bits"]])


def paces(files: Sequence[Path], rounds: int) -> list[dict[str, Any]]:
    """Measure prefill of 256 tokens, and decode behind 128, in turn; and count the bytes that the layers' matrices take."""
    llms = [LLM(file, "numba") for file in files]

    def measure(number: int) -> tuple[float, float]:
        model = llms[number].transformer
        cache = fill(model.new_cache(160), model.config, 128)
        return prefill_seconds(model, 256), min(decode_seconds(model, [cache], 16))

    seconds = in_turn(range(len(files)), rounds + 1, measure, "speed, ")
    found = []
    for number, llm in enumerate(llms):
        prefill, decode = (median(times) for times in zip(*seconds[number][1:], strict=True))  # the first warms up
        found.append({
            "memory_bits_per_weight": memory_bits(llm.transformer),
            "prefill_tokens_per_s": 256 / prefill, "decode_tokens_per_s": 1 / decode,
        })  # fmt: skip
    terminal.say("")
    return found


def memory_bits(model: Transformer) -> float:
    """Count the bits of a weight of the layers' matrices, over all that a backend keeps of them."""
    matrices: list[Any] = [getattr(layer, name) for layer in model.weights.layers for name in FIELDS.values()]
    return 8 * sum(matrix.nbytes for matrix in matrices) / sum(matrix.shape[0] * matrix.shape[1] for matrix in matrices)


def table(result: dict[str, Any]) -> str:
    head = ["method", "type", "bits", "perplexity", "KL (nats)", "P99", "same choice", "less rtn's KL", "file"]
    speeds = "decode_tokens_per_s" in result["base"]
    head += ["memory", "prefill/s", "decode/s"] if speeds else []
    rows = []
    for r in [result["base"], *sorted(result["rows"], key=lambda r: -r["bits"])]:
        row = [r["method"] + " *" * r.get("holds_the_source", False), r["type"], f"{r['bits_per_weight']:.2f}"]
        row.append(f"{r['perplexity']:.4f} ± {r['perplexity_error']:.4f}")
        row += ["", "", "", ""] if "kl" not in r else [
            f"{r['kl']:.5f} ± {r['kl_error']:.5f}", f"{r['kl_99']:.4f}", f"{r['agreement']:.2%}",
            f"{r['kl_less_rtn']:+.5f} ± {r['kl_less_rtn_error']:.5f}" if "kl_less_rtn" in r and not r["holds_the_source"] else "",
        ]  # fmt: skip
        row.append(f"{r['file_bytes'] / 1e6:,.2f} MB")
        if speeds:
            row += [f"{r['memory_bits_per_weight']:.2f}", f"{r['prefill_tokens_per_s']:,.0f}", f"{r['decode_tokens_per_s']:,.0f}"]
        rows.append(row)
    lines = [
        f"{result['model']}: {result['scored_tokens']:,} tokens of {result['documents']} held-out stories; layers' "
        f"matrices quantized, groups of {result['group']} where a method has them; embedding and head as they are",
        terminal.table(head, rows, "<<"),
    ]
    if any(r["holds_the_source"] for r in result["rows"]):
        lines.append(f"* its grid contains {result['base']['type']}, which the source was rounded to before: not compared.")
    if speeds and (floats := sorted({r["type"] for r in result["rows"] if not r["kernels"]})):
        lines.append(f"Numba has no kernels for {' and '.join(floats)}: in memory they are float32.")
    return "\n".join(lines)
