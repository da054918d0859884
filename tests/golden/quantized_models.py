"""Our quantized files beside llama.cpp's: the half of the comparison that runs minillm.

    PYTHONPATH=../..:.. python quantized_models.py write FOLDER            every mix of every model
    python record_quantized.py FOLDER                                      llama.cpp's own files, and its logits of both
    PYTHONPATH=../..:.. python quantized_models.py compare FOLDER [OUT.json]

Models: three of random weights, 256 wide, one for each architecture, so that no row needs a fallback; `tiny`; and SmolLM2, whose
rows of 576 need many. Each reads the beginnings of ten held-out stories. Kept for each file: the mean KL divergence of the two
engines on it, how often our first choice is among llama.cpp's two best, and the KL divergence of a quantized file to the F16 one,
ours and llama.cpp's. For that both run on our reference engine: llama.cpp rounds the inputs of its products too.

SmolLM2 takes half an hour, though only without an imatrix. What a step finds done in FOLDER it leaves, file by file, so a step
that was stopped goes on where it was; a change of a quantizer wants its files deleted, or a new folder. Models of the record that
FOLDER lacks stay in it.
"""

import json
import pathlib
import sys
from dataclasses import replace

import numpy as np
from golden import mix_models, written_models

from minillm import LLM
from minillm.calibration.collect import chunks_of
from minillm.calibration.importance import importance_matrix
from minillm.errors import ModelError
from minillm.formats.gguf import open_gguf
from minillm.formats.requantize import requantize
from minillm.model import zoo
from minillm.model.config import ModelConfig
from minillm.model.random_model import byte_metadata
from minillm.model.sampling import log_softmax
from minillm.model.transformer import Segment
from minillm.model.write import write_model
from minillm.training.data import read_corpus, split

STORIES = pathlib.Path(__file__).parents[2] / "data" / "corpus" / "stories.txt.xz"
WIDE = ModelConfig(
    n_layers=3, d_model=256, n_heads=8, n_kv_heads=2, d_head=32, d_ff=512, vocab_size=300, context_length=256, tied=False,
    name="wide",
)  # fmt: skip
RANDOM = {
    "llama": WIDE,
    "qwen2": replace(WIDE, n_kv_heads=4, rope_interleaved=False, qkv_bias=True),
    "qwen3": replace(WIDE, n_kv_heads=8, rope_interleaved=False, qk_norm=True),
}
MODELS = (*RANDOM, "tiny", "smollm2-135m")
TOKENS = {"tiny": 192, "smollm2-135m": 192}  # of each prompt; else 48
KEPT = "llama"  # of this model, what llama.cpp says is kept too, for a test that quantizes it anew
FILES = [*mix_models.MIXES, *(f"{mix}+imatrix" for mix in mix_models.MIXES if "_" in mix and mix != "q8_0")]
FEWER = {"smollm2-135m": list(mix_models.MIXES)}  # every type; what an imatrix does is measured on the small models


def files_of(name):
    return FEWER.get(name, FILES)


def write_base(name, path):
    """Write the F16 file that everything is made of."""
    if name in RANDOM:
        weights = written_models.weights(RANDOM[name])
        weights["output.weight"][16:] /= 4  # a few tokens stand out, as they do in text; else all choices are near ties
        write_model(path, RANDOM[name], weights, byte_metadata(300))
        return
    with open_gguf(zoo.resolve(name)) as source:
        requantize(source, path, "f16")


def stories():
    learned, held_out = split(read_corpus(STORIES), "<|endoftext|>", 0.03)
    return learned[:400], held_out[:10]


def quantized(base, folder, imatrix, files=FILES):  # writes FOLDER/{mix}.gguf
    with open_gguf(base) as source:
        for file in files:
            mix, _, steered = file.partition("+")
            if not (folder / f"{file}.gguf").exists():
                requantize(source, folder / f"{file}.gguf", mix, imatrix if steered else None)
                print(folder.name, file, file=sys.stderr)


def write(folder, names):
    learned, held_out = stories()
    for name in names:
        where = folder / name
        where.mkdir(parents=True, exist_ok=True)
        if not (where / "base.gguf").exists():
            write_base(name, where / "base.gguf")
        llm = LLM(where / "base.gguf", backend="numpy")
        prompts = [llm.tokenizer.encode(story)[: TOKENS.get(name, 48)] for story in held_out]
        (where / "prompts.json").write_text(json.dumps(prompts))
        chunks = chunks_of(llm.tokenizer, "<|endoftext|>".join(learned), 128, 8 if name == "smollm2-135m" else 32)
        imatrix = importance_matrix(llm.transformer, chunks, 128, "stories")
        with open_gguf(where / "base.gguf") as source:
            means = {n: imatrix.importance(source.tensors[n])[0] for n in imatrix.sums}
        np.savez(where / "imatrix.npz", **means)
        quantized(where / "base.gguf", where, imatrix, files_of(name))


def our_logits(path, prompts):  # -> (tokens of all prompts, vocab) float32
    transformer = LLM(path, backend="numpy").transformer
    segments = [Segment(ids, 0, transformer.new_cache(len(ids)), "all") for ids in prompts]
    return np.concatenate([transformer.forward([segment])[0] for segment in segments])


def divergence(p, q):  # logits, logits -> mean KL(p ‖ q) in nats
    total = 0.0
    for start in range(0, len(p), 64):  # a few positions at a time stay in the cache
        some, other = (log_softmax(a[start : start + 64].astype(np.float64)) for a in (p, q))
        total += float((np.exp(some) * (some - other)).sum())
    return total / len(p)


def two_best(logits):  # -> (positions, 2) tokens
    best = np.argpartition(-logits, 1, axis=1)[:, :2]
    return np.take_along_axis(best, np.argsort(-np.take_along_axis(logits, best, axis=1), axis=1), axis=1)


def among_two_best(ours, theirs):  # -> share of positions
    return float((ours.argmax(axis=1)[:, None] == two_best(theirs)).any(axis=1).mean())


def shown(result):
    """Lay the record out with one line for each file."""
    figures = []
    for name, model in result["models"].items():
        rows = (f"{json.dumps(file)}: {json.dumps(rounded(row))}" for file, row in model["files"].items())
        figures.append(f'{json.dumps(name)}: {{"tokens": {model["tokens"]}, "files": {{\n' + ",\n".join(rows) + "\n}}")
    best = ",\n".join(f"{json.dumps(file)}: {json.dumps(rows)}" for file, rows in result["two_best"].items())
    start = f'"llama-cpp-python": {json.dumps(result["llama-cpp-python"])}, "prompts": {json.dumps(result["prompts"])}'
    return f'{{{start}, "models": {{\n{",".join(figures)}\n}}, "two_best": {{\n{best}\n}}}}\n'


def rounded(row):
    return {key: value if isinstance(value, bool) else float(f"{value:.4g}") for key, value in row.items()}


def same_weights(path, other):
    with open_gguf(path) as a, open_gguf(other) as b:
        return all(np.array_equal(a.raw(name), b.raw(name)) for name in a.tensors)


def measure(where, file, f16, prompts):  # -> what is kept of a file
    theirs, ours = np.load(where / f"{file}.npy"), our_logits(where / f"{file}.gguf", prompts)
    of_theirs = np.load(where / f"{file}.llama.npy")  # the file that llama.cpp quantized
    same = same_weights(where / f"{file}.gguf", where / f"{file}.llama.gguf")
    ours_of_theirs = ours if same else our_logits(where / f"{file}.llama.gguf", prompts)
    return {
        "types_equal": json.loads((where / "types.json").read_text())[file],
        "kl_of_engines": divergence(theirs, ours), "among_two_best": among_two_best(ours, theirs),
        "kl_of_engines_on_theirs": divergence(of_theirs, ours_of_theirs),
        "among_two_best_on_theirs": among_two_best(ours_of_theirs, of_theirs),
        "kl_to_f16": divergence(f16, ours), "kl_to_f16_of_theirs": divergence(f16, ours_of_theirs),
    }  # fmt: skip


def compare(folder, out):
    result = json.loads(out.read_text()) if out.exists() else {"models": {}}
    result["llama-cpp-python"] = json.loads((folder / "version.json").read_text())
    for where in sorted(path.parent for path in folder.glob("*/prompts.json")):
        prompts, done = json.loads((where / "prompts.json").read_text()), where / "rows.json"
        files = files_of(where.name)
        rows = json.loads(done.read_text()) if done.exists() else {}
        f16 = our_logits(where / "f16.gguf", prompts)
        for file in files:
            if file not in rows:
                rows[file] = measure(where, file, f16, prompts)
                done.write_text(json.dumps(rows))
                print(where.name, file, rows[file], file=sys.stderr)
        result["models"][where.name] = {"tokens": sum(map(len, prompts)), "files": {file: rows[file] for file in files}}
        if where.name == KEPT:
            result["prompts"] = prompts[:4]
            tokens = sum(map(len, prompts[:4]))
            result["two_best"] = {f: two_best(np.load(where / f"{f}.npy")[:tokens]).tolist() for f in FILES if "+" not in f}
    result["models"] = {name: result["models"][name] for name in sorted(result["models"])}
    out.write_text(shown(result))


if __name__ == "__main__":
    action, target = sys.argv[1], pathlib.Path(sys.argv[2])
    if action == "write":
        try:
            zoo.resolve(MODELS[-1])
            found = MODELS
        except ModelError as error:
            print(error, file=sys.stderr)
            found = MODELS[:-1]
        write(target, sys.argv[3:] or found)
    else:
        here = pathlib.Path(__file__).parent
        compare(target, pathlib.Path(sys.argv[3]) if len(sys.argv) > 3 else here / "quantized.json")
