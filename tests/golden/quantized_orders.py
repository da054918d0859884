"""Whose quantized weights hurt the model more, ours or llama.cpp's? Measured on `tiny` in several orders of its columns.

    PYTHONPATH=../..:.. python quantized_orders.py write FOLDER            `tiny` six times, each in another order
    python record_quantized.py FOLDER                                      llama.cpp quantizes the same files
    PYTHONPATH=../..:.. python quantized_orders.py compare FOLDER [OUT.json]

One file says little: errors of equal size hurt more or less by the directions that they happen to have, and the KL divergence of
a type moves by some 5% from one order of the columns to the next. The orders are undone before the model runs, so each is another
draw of the same rounding. Kept: the KL divergence to F16 for each draw, ours, llama.cpp's, and ours with a strange imatrix, whose
importances are at other columns than those that they were measured at.
"""

import json
import pathlib
import sys

import numpy as np
from golden.quantized_models import FILES, divergence, our_logits, quantized, stories, write_base

from minillm import LLM
from minillm.calibration.collect import chunks_of
from minillm.calibration.importance import importance_matrix
from minillm.formats.gguf import open_gguf
from minillm.formats.gguf_write import write_gguf
from minillm.formats.imatrix import ImportanceMatrix

ORDERS, TOKENS = 6, 96
SEARCHED = [file for file in FILES if "_k" in file or "iq4" in file or "+" in file]  # the others are equal, byte for byte


STEERED = [file for file in SEARCHED if "+" in file]


def order(name, columns, draw):  # the first draw is the model as it is
    rng = np.random.default_rng([draw, *name.encode()])
    return rng.permutation(columns) if draw else np.arange(columns)


def write(folder):
    learned, held_out = stories()
    folder.mkdir(parents=True, exist_ok=True)
    base = folder / "tiny.f16"
    write_base("tiny", base)
    llm = LLM(base, backend="numpy")
    (folder / "texts.json").write_text(json.dumps([llm.tokenizer.encode(story)[:TOKENS] for story in held_out]))
    chunks = chunks_of(llm.tokenizer, "<|endoftext|>".join(learned), 128, 32)
    whole = importance_matrix(llm.transformer, chunks, 128, "stories")
    for draw in range(ORDERS):
        where = folder / f"order{draw}"
        where.mkdir(exist_ok=True)
        with open_gguf(base) as source:
            shuffled = {
                name: source.dequantize(name).astype(np.float16)[:, order(name, info.shape[1], draw)]
                if len(info.shape) == 2 else source.dequantize(name) for name, info in source.tensors.items()
            }  # fmt: skip
            write_gguf(where / "base.gguf", source.verbatim(), shuffled)
        sums = {name: values[:, order(name, values.shape[1], draw)] for name, values in whole.sums.items()}
        imatrix = ImportanceMatrix(sums, whole.counts)
        np.savez(where / "imatrix.npz", **{name: values[0] / whole.counts[name] for name, values in sums.items()})
        quantized(where / "base.gguf", where, imatrix, SEARCHED)
        (where / "strange").mkdir(exist_ok=True)
        quantized(where / "base.gguf", where / "strange", strange(imatrix, draw), STEERED)
        print(where.name, file=sys.stderr)


def strange(imatrix, draw):  # -> the same importances, each at a column where it does not belong
    rng = np.random.default_rng(draw)
    return ImportanceMatrix({name: rng.permuted(sums, axis=1) for name, sums in imatrix.sums.items()}, imatrix.counts)


def in_order(path, draw, out):
    """Write a file's weights in F32, each column where it belongs."""
    with open_gguf(path) as shuffled:
        tensors = {}
        for name, info in shuffled.tensors.items():
            weights = shuffled.dequantize(name)
            tensors[name] = weights[:, np.argsort(order(name, info.shape[1], draw))] if len(info.shape) == 2 else weights
        write_gguf(out, shuffled.verbatim(), tensors)
    return out


def compare(folder, out):
    prompts, result = json.loads((folder / "texts.json").read_text()), {}
    f16 = our_logits(folder / "tiny.f16", prompts)
    for file in SEARCHED:
        names = {"ours": f"{file}.gguf", "llama_cpp": f"{file}.llama.gguf"}
        names |= {"strange": f"strange/{file}.gguf"} if file in STEERED else {}
        rows = result[file] = {who: [] for who in names}
        for draw in range(ORDERS):
            for who, name in names.items():
                path = in_order(folder / f"order{draw}" / name, draw, folder / "undone.gguf")
                rows[who].append(float(f"{divergence(f16, our_logits(path, prompts)):.5g}"))
        print(f"{file}: {np.mean(rows['ours']) / np.mean(rows['llama_cpp']):.3f} {rows}", file=sys.stderr)
    lines = ",\n".join(f"{json.dumps(file)}: {json.dumps(rows)}" for file, rows in result.items())
    out.write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(pathlib.Path(sys.argv[2]))
    else:
        here = pathlib.Path(__file__).parent
        compare(pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]) if len(sys.argv) > 3 else here / "quantized_orders.json")
