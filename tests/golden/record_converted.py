"""Record what transformers makes of folders that minillm made of GGUF files, and llama.cpp of the files themselves.

    PYTHONPATH=../.. python converted_models.py FOLDER
    python record_converted.py FOLDER [OUT.json]

The second step needs transformers with torch and llama-cpp-python, which the tests never import, and runs no code of minillm.
Kept with each model: the sha256 of all that was read; the ids of texts, as AutoTokenizer gives them; of one sequence of ids the
logits at three positions, by transformers in float32; and how far llama.cpp's lie from these, of the largest. llama.cpp keeps
keys and values in 16 bits here, hence its distance also where nothing is scaled. It takes beta_fast 32 and beta_slow 1 of YaRN
whatever a file says, so for qwen3_yarn, which says others, these are given to it by hand.
"""

import hashlib
import importlib.metadata
import json
import pathlib
import sys

import llama_cpp
import numpy as np
import torch
import transformers

TEXTS = ("Once upon a time", " the owl's 3 friends:  fox\n", "a\u00e9\U0001f642 \t! cafe\u0301 1234", "<|endoftext|> is text", "")
BETAS = {"qwen3_yarn": {"yarn_beta_fast": 2.0, "yarn_beta_slow": 0.1}}
LENGTH, POSITIONS = 96, (3, 40, 95)


def ids_of(size):
    return (3 + np.random.PCG64(7).random_raw(LENGTH) % np.uint64(size - 3)).astype(int).tolist()


def answers(path):
    folder = path.with_suffix("")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"] and not loading["mismatched_keys"], loading
    ids = ids_of(model.config.vocab_size)
    with torch.inference_mode():
        logits = model.eval()(torch.tensor([ids])).logits[0].double().numpy()
    options = {"n_ctx": 256, "n_threads": 1, "logits_all": True, "verbose": False} | BETAS.get(path.stem, {})
    theirs = llama_cpp.Llama(str(path), **options)
    theirs.eval(ids)
    apart = np.abs(theirs.scores[: len(ids)] - logits).max() / np.abs(logits).max()
    files = [path, *(folder / name for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"))]
    return {
        "sha256": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
        "texts": {text: tokenizer(text)["input_ids"] for text in TEXTS},
        "eos": model.generation_config.eos_token_id, "temperature": model.generation_config.temperature,
        "template": bool(tokenizer.chat_template), "ids": ids, "positions": POSITIONS,
        "logits": [[float(f"{x:.6g}") for x in logits[p]] for p in POSITIONS], "llama_cpp_apart": float(f"{apart:.3g}"),
    }  # fmt: skip


if __name__ == "__main__":
    here = pathlib.Path(__file__).parent
    out = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else here / "converted.json"
    models = {path.stem: answers(path) for path in sorted(pathlib.Path(sys.argv[1]).glob("*.gguf"))}
    lines = ",\n".join(f"{json.dumps(name)}:{json.dumps(value, separators=(',', ':'))}" for name, value in models.items())
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "llama-cpp-python")}
    out.write_text(f'{{"versions":{json.dumps(versions)},"models":{{\n{lines}\n}}}}\n', encoding="utf-8")
