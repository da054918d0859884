"""Small models as GGUF files and as the folders that minillm made of them: for the recorder, which needs both, and for the test.

    python converted_models.py FOLDER

Random weights that follow from PCG64's raw stream: the same bytes on every machine. Contexts are short, so that the last of the
recorded positions lie beyond the original context, and what scales RoPE shows.
"""

import json
import pathlib
import shutil
import sys
from dataclasses import replace

from minillm.model import write_folder
from minillm.model.config import RopeScaling
from minillm.model.write import write_model
from minillm.training.bpe_train import train_bpe

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))
from written_models import LLAMA, TEXT, weights  # noqa: E402

LLAMA = replace(LLAMA, d_head=16, rope_base=500.0, name="converted llama")
QWEN2 = replace(LLAMA, d_model=64, rope_interleaved=False, qkv_bias=True, tied=False)  # llama.cpp wants heads × d_head = d_model
QWEN3 = replace(LLAMA, rope_interleaved=False, qk_norm=True, norm_eps=1e-6)
YARN = RopeScaling("yarn", 8.0, original_context=32)
OTHER_YARN = RopeScaling("yarn", 2.5, original_context=48, beta_fast=2.0, beta_slow=0.1, attention_factor=1.4)
MODELS = {  # name: shape, tokenizer
    "llama": (LLAMA, "bpe"),
    "llama_sentencepiece": (replace(LLAMA, vocab_size=800, tied=False), "sentencepiece"),
    "llama_linear": (replace(LLAMA, rope_scaling=RopeScaling("linear", 2.3)), "bpe"),
    "llama_llama3": (replace(LLAMA, rope_scaling=RopeScaling("llama3", 8.0, 1.0, 4.0, 32), n_kv_heads=1), "bpe"),
    "llama_yarn": (replace(LLAMA, rope_scaling=YARN), "bpe"),
    "qwen2": (QWEN2, "qwen"),
    "qwen2_yarn": (replace(QWEN2, rope_scaling=YARN, n_kv_heads=4), "qwen"),
    "qwen3": (QWEN3, "qwen"),
    "qwen3_yarn": (replace(QWEN3, rope_scaling=OTHER_YARN), "bpe"),
}


def tokenizer(kind):  # -> GGUF's metadata
    if kind == "bpe":
        return train_bpe([TEXT * 3], 300)
    if kind == "qwen":  # transformers 5 puts Qwen's own stages around the vocabulary of a qwen2, whatever tokenizer.json says
        return train_bpe([TEXT * 3], 300) | {"tokenizer.ggml.pre": "qwen2", "tokenizer.minillm.normalizer": "NFC"}
    recorded = json.loads((HERE / "tokenization.json").read_text(encoding="utf-8"))["sentencepiece"]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": recorded["tokens"],
        "tokenizer.ggml.scores": recorded["scores"],
        "tokenizer.ggml.token_type": [1 if kind == 4 else kind for kind in recorded["types"]],  # <tool> as a word like others
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.chat_template": "{% for m in messages %}{{ bos_token }}[INST] {{ m['content'] }} [/INST]{% endfor %}",
    }


def write_gguf_file(name, path):
    if name == "tiny":
        shutil.copy(HERE.parents[1] / "data" / "models" / "tiny.gguf", path)
        return
    config, kind = MODELS[name]
    extra = {"general.license": "apache-2.0", "general.sampling.temp": 0.7, "general.sampling.top_p": 0.95}
    write_model(path, config, weights(config), tokenizer(kind), extra, "F16")


def write(name, folder):  # -> folder/NAME.gguf, folder/NAME/…
    write_gguf_file(name, folder / f"{name}.gguf")
    return write_folder.convert(folder / f"{name}.gguf", folder / name)


if __name__ == "__main__":
    for name in (*MODELS, "tiny"):
        write(name, pathlib.Path(sys.argv[1]))
