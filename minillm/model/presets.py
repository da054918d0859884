"""Shapes of published models, for arithmetic without a download: "how many tokens fit beside Llama-3-8B in 24 GB?"

Each line is what the model's own config.json says. Names are those of the lessons, cards and the simulator.
"""


from typing import Any

from minillm.errors import ModelError, did_you_mean
from minillm.model.config import ModelConfig, RopeScaling

LLAMA31 = RopeScaling("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192)
LLAMA32 = RopeScaling("llama3", factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192)
QWEN2 = {"rope_base": 1e6, "rope_interleaved": False, "qkv_bias": True}
QWEN3 = {"rope_base": 1e6, "rope_interleaved": False, "qk_norm": True}


def shape(
    layers: int, d: int, heads: int, kv_heads: int, d_head: int, d_ff: int, vocab: int, context: int, **rest: Any
) -> ModelConfig:
    return ModelConfig(layers, d, heads, kv_heads, d_head, d_ff, vocab, context, **rest)


PRESETS = {
    "smollm2-135m": shape(30, 576, 9, 3, 64, 1536, 49152, 8192, rope_base=1e5, tied=True),
    "smollm2-360m": shape(32, 960, 15, 5, 64, 2560, 49152, 8192, rope_base=1e5, tied=True),
    "smollm2-1.7b": shape(24, 2048, 32, 32, 64, 8192, 49152, 8192, rope_base=1.3e5, tied=True),
    "llama-2-7b": shape(32, 4096, 32, 32, 128, 11008, 32000, 4096),
    "llama-2-13b": shape(40, 5120, 40, 40, 128, 13824, 32000, 4096),
    "llama-2-70b": shape(80, 8192, 64, 8, 128, 28672, 32000, 4096),
    "llama-3-8b": shape(32, 4096, 32, 8, 128, 14336, 128256, 8192, rope_base=5e5),
    "llama-3-70b": shape(80, 8192, 64, 8, 128, 28672, 128256, 8192, rope_base=5e5),
    "llama-3.1-8b": shape(32, 4096, 32, 8, 128, 14336, 128256, 131072, rope_base=5e5, rope_scaling=LLAMA31),
    "llama-3.1-70b": shape(80, 8192, 64, 8, 128, 28672, 128256, 131072, rope_base=5e5, rope_scaling=LLAMA31),
    "llama-3.1-405b": shape(126, 16384, 128, 8, 128, 53248, 128256, 131072, rope_base=5e5, rope_scaling=LLAMA31),
    "llama-3.2-1b": shape(16, 2048, 32, 8, 64, 8192, 128256, 131072, rope_base=5e5, rope_scaling=LLAMA32, tied=True),
    "llama-3.2-3b": shape(28, 3072, 24, 8, 128, 8192, 128256, 131072, rope_base=5e5, rope_scaling=LLAMA32, tied=True),
    "llama-3.3-70b": shape(80, 8192, 64, 8, 128, 28672, 128256, 131072, rope_base=5e5, rope_scaling=LLAMA31),
    "mistral-7b-v0.3": shape(32, 4096, 32, 8, 128, 14336, 32768, 32768, rope_base=1e6),
    "mistral-nemo-12b": shape(40, 5120, 32, 8, 128, 14336, 131072, 131072, rope_base=1e6),
    "qwen2-7b": shape(28, 3584, 28, 4, 128, 18944, 152064, 131072, **QWEN2),
    "qwen2.5-0.5b": shape(24, 896, 14, 2, 64, 4864, 151936, 32768, **QWEN2, tied=True),
    "qwen2.5-7b": shape(28, 3584, 28, 4, 128, 18944, 152064, 32768, **QWEN2),
    "qwen2.5-72b": shape(80, 8192, 64, 8, 128, 29568, 152064, 32768, **QWEN2),
    "qwen3-0.6b": shape(28, 1024, 16, 8, 128, 3072, 151936, 40960, **QWEN3, tied=True),
    "qwen3-8b": shape(36, 4096, 32, 8, 128, 12288, 151936, 40960, **QWEN3),
    "qwen3-32b": shape(64, 5120, 64, 8, 128, 25600, 151936, 40960, **QWEN3),
}


def preset(name: str) -> ModelConfig:
    """Find the configuration called `name`; ModelError with the nearest name otherwise."""
    if name not in PRESETS:
        raise ModelError(f"no model shape is called {name!r}; {did_you_mean(name, PRESETS)}")
    return PRESETS[name]
