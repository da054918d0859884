"""Small models that minillm writes and llama.cpp has read: for the recorder, which needs the files, and for the test.

    python written_models.py FOLDER

Random weights that follow from PCG64's raw stream, a tokenizer trained on one sentence: the same bytes on every machine.
"""

import pathlib
import sys
from dataclasses import replace

from minillm.model.config import ModelConfig
from minillm.model.random_model import byte_metadata, random_tensor, tensor_shapes
from minillm.model.write import write_model
from minillm.training.bpe_train import train_bpe

TEXT = "Once upon a time there was a fox, and the fox had 3 friends: a bear, an owl and another fox. "
LLAMA = ModelConfig(
    n_layers=2, d_model=32, n_heads=4, n_kv_heads=2, d_head=8, d_ff=48, vocab_size=300, context_length=256, tied=True,
    name="written llama",
)  # fmt: skip
MODELS = {  # name: shape, metadata of the tokenizer or None for the bytes, dtype
    "llama": (LLAMA, True, "F16"),
    "llama_f32": (replace(LLAMA, tied=False, d_head=16, rope_base=500.0, norm_eps=1e-2), True, "F32"),
    "llama_bytes": (replace(LLAMA, n_kv_heads=1, tied=False), False, "F16"),
    "qwen2": (replace(LLAMA, rope_interleaved=False, qkv_bias=True, tied=False, name="written qwen2"), True, "F16"),
    "qwen3": (replace(LLAMA, rope_interleaved=False, qk_norm=True, tied=False, d_head=12), True, "F16"),
}


def weights(config):  # -> {name: float32 array}, norms and biases too at random
    return {
        name: random_tensor(name.replace("norm", "gain"), shape, 7) * (3 if name.startswith("output.") else 1) + ("norm" in name)
        for name, shape in tensor_shapes(config).items()
    }


def write(name, path):
    config, trained, dtype = MODELS[name]
    tokenizer = train_bpe([TEXT * 3], 300) if trained else byte_metadata(300)
    write_model(path, config, weights(config), tokenizer, {"general.license": "apache-2.0"}, dtype)


if __name__ == "__main__":
    for name in MODELS:
        write(name, pathlib.Path(sys.argv[1]) / f"{name}.gguf")
