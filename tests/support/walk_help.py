"""Small models whose rows hold whole groups, in the shapes that a walk over layers must know, and files of them."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from minillm.backends import get_backend
from minillm.model.config import ModelConfig
from minillm.model.load import load_from
from minillm.model.random_model import byte_metadata, random_tensor, tensor_shapes
from minillm.model.write import write_model

LLAMA = ModelConfig(
    n_layers=2, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=96, vocab_size=300, context_length=128, tied=True,
    name="walked",
)  # fmt: skip
SHAPES = {
    "llama": LLAMA,
    "mqa": replace(LLAMA, n_heads=2, n_kv_heads=1, d_head=48, n_layers=3, tied=False),  # heads wider in sum than the model
    "qwen2": replace(LLAMA, rope_interleaved=False, qkv_bias=True),
    "qwen3": replace(LLAMA, rope_interleaved=False, qk_norm=True, tied=False),
}


def parameters(config, seed=7):  # -> {name: float32 array}, norms and biases at random too, and a column that stands out
    found = {
        name: random_tensor(name.replace("norm", "gain"), shape, seed) * 0.7 + ("norm" in name)
        for name, shape in tensor_shapes(config).items()
    }
    for name, array in found.items():
        if "norm" in name:
            array[3] *= 6
    return found


def write(path, config=LLAMA, weights=None, **changed):
    write_model(path, config, parameters(config) | (weights or {}) | changed, byte_metadata(config.vocab_size), dtype="F32")
    return path


def load(path):  # -> Transformer
    return load_from(Path(path), get_backend("numpy"))[0]


def ids(chunks=3, length=40, vocab=300, seed=1):  # -> (chunks, length) int64
    return np.random.default_rng(seed).integers(0, vocab, (chunks, length))


@dataclass(frozen=True)
class Same:
    """A quantizer's result that lost nothing."""

    weights: np.ndarray

    def dense(self):
        return self.weights
