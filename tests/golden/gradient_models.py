"""Small random models whose gradients are recorded: their shapes, weights and batches, for the recorder and for the test.

Weights are the raw stream of a PCG64 bit generator (unlike NumPy's distributions it never changes between versions), under
GGUF's names and in GGUF's order of rows: Llama's Q and K rows are paired for RoPE as neighbours, Qwen's by halves.
"""

import math

import numpy as np

PLAIN = {"n_layers": 2, "d_model": 12, "n_heads": 4, "n_kv_heads": 2, "d_head": 6, "d_ff": 10, "vocab_size": 19, "tied": True}
CASES = {  # architecture of transformers -> shape, where it is not the plain one
    "llama": {},
    "llama_untied_mqa": {"n_kv_heads": 1, "tied": False, "norm_eps": 1e-2},
    "llama_gqa3": {"n_heads": 6, "d_head": 4, "n_layers": 3, "rope_base": 100.0},
    "qwen2": {"qkv_bias": True, "rope_interleaved": False},
    "qwen3": {"qk_norm": True, "rope_interleaved": False, "tied": False},
}
DEFAULTS = {"norm_eps": 1e-5, "rope_base": 10000.0, "rope_interleaved": True, "qkv_bias": False, "qk_norm": False}


def shape(name):  # -> {field of ModelConfig: value}
    return PLAIN | DEFAULTS | {"context_length": 16} | CASES[name]


def draw(seed, *size):  # -> float32, uniform between -1 and 1
    bits = np.random.PCG64(seed).random_raw(math.prod(size)) >> np.uint64(40)
    return (bits.astype(np.float32) / np.float32(2**23) - 1).reshape(size)


def weights(name):  # -> {GGUF name: float32 array}
    c = shape(name)
    d, wide, narrow = c["d_model"], c["n_heads"] * c["d_head"], c["n_kv_heads"] * c["d_head"]
    sizes = {"token_embd.weight": (c["vocab_size"], d), "output_norm.weight": (d,)}
    if not c["tied"]:
        sizes["output.weight"] = (c["vocab_size"], d)
    for i in range(c["n_layers"]):
        layer = {"attn_norm": (d,), "attn_q": (wide, d), "attn_k": (narrow, d), "attn_v": (narrow, d), "attn_output": (d, wide)}
        layer |= {"ffn_norm": (d,), "ffn_gate": (c["d_ff"], d), "ffn_up": (c["d_ff"], d), "ffn_down": (d, c["d_ff"])}
        if c["qk_norm"]:
            layer |= {"attn_q_norm": (c["d_head"],), "attn_k_norm": (c["d_head"],)}
        sizes |= {f"blk.{i}.{part}.weight": size for part, size in layer.items()}
        if c["qkv_bias"]:
            sizes |= {f"blk.{i}.attn_{n}.bias": (size,) for n, size in (("q", wide), ("k", narrow), ("v", narrow))}
    made = {}
    for i, (tensor, size) in enumerate(sizes.items()):
        made[tensor] = draw([i, len(name)], *size) * np.float32(0.6)
        if "norm" in tensor:
            made[tensor] += 1
    return made


def batch(name):  # -> (3, 11) tokens, (3, 11) targets, some of them -1
    vocab = shape(name)["vocab_size"]
    tokens = (np.random.PCG64(7).random_raw(33) % np.uint64(vocab)).astype(np.int64).reshape(3, 11)
    targets = (np.random.PCG64(8).random_raw(33) % np.uint64(vocab)).astype(np.int64).reshape(3, 11)
    targets[1, 6:] = targets[2, :2] = -1
    return tokens, targets
