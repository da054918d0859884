"""A model with random weights, made in memory: all of the engine and none of the download.

What it says is noise, but what it costs is real: the same operations, cache and scheduler run, at any shape. Notebooks fall
back on it, tests and the simulator build odd shapes with it. The weights go through the backend like those of a file. The
tokenizer is the simplest there is: a byte is a token.

    llm = LLM(random_model())                                  # TINY, 3 million weights
    llm = LLM(random_model(replace(TINY, n_kv_heads=1)))       # the same with multi-query attention
"""

import math
from typing import Any

import numpy as np

from minillm.backends import get_backend
from minillm.errors import ModelError
from minillm.formats.blocks import BLOCK_TYPES
from minillm.model.config import ModelConfig
from minillm.model.tokenizer import Tokenizer
from minillm.model.tokenizer.bpe import BYTE_TO_CHAR
from minillm.model.tokenizer.vocabulary import CONTROL, NORMAL
from minillm.model.transformer import Transformer
from minillm.model.weights import StoredTensor, load_weights

TINY = ModelConfig(
    n_layers=4, d_model=256, n_heads=8, n_kv_heads=4, d_head=32, d_ff=704, vocab_size=512, context_length=4096,
    tied=True, name="random model",
)  # fmt: skip
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def random_model(  # -> (Transformer, Tokenizer)
    config: ModelConfig = TINY, seed: int = 0, backend: str | None = None
) -> tuple[Transformer, Tokenizer]:
    """Make a model of this shape with weights from the seed alone. ModelError for a vocabulary without room for the bytes."""
    tokenizer = byte_tokenizer(config.vocab_size)
    shapes, ops = tensor_shapes(config), get_backend(backend)

    def tensor(name: str) -> StoredTensor | None:
        if name not in shapes:
            return None
        values = random_tensor(name, shapes[name], seed)
        return StoredTensor(values.view(np.uint8).reshape(-1), BLOCK_TYPES["F32"], shapes[name])

    return Transformer(config, load_weights(config, tensor, ops), ops), tokenizer


def tensor_shapes(c: ModelConfig) -> dict[str, tuple[int, ...]]:  # ModelConfig -> {name: shape}; load_weights checks every one
    """List the tensors of a model, by GGUF's names."""
    wide, narrow = c.n_heads * c.d_head, c.n_kv_heads * c.d_head
    layer = {
        "attn_norm.weight": (c.d_model,), "ffn_norm.weight": (c.d_model,),
        "attn_q.weight": (wide, c.d_model), "attn_k.weight": (narrow, c.d_model), "attn_v.weight": (narrow, c.d_model),
        "attn_output.weight": (c.d_model, wide),
        "ffn_gate.weight": (c.d_ff, c.d_model), "ffn_up.weight": (c.d_ff, c.d_model), "ffn_down.weight": (c.d_model, c.d_ff),
    }  # fmt: skip
    if c.qkv_bias:
        layer |= {"attn_q.bias": (wide,), "attn_k.bias": (narrow,), "attn_v.bias": (narrow,)}
    if c.qk_norm:
        layer |= {"attn_q_norm.weight": (c.d_head,), "attn_k_norm.weight": (c.d_head,)}
    shapes = {f"blk.{i}.{name}": shape for i in range(c.n_layers) for name, shape in layer.items()}
    head = {} if c.tied else {"output.weight": (c.vocab_size, c.d_model)}
    return {"token_embd.weight": (c.vocab_size, c.d_model), "output_norm.weight": (c.d_model,), **head, **shapes}


def random_tensor(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:  # -> float32
    """Draw a tensor. Norms are 1; the rest is uniform, and scaled so that a unit vector in gives one of unit variance out.

    Straight from the bits of PCG64: unlike NumPy's distributions, they never change between versions.
    """
    if len(shape) == 1 and name.endswith("norm.weight"):
        return np.ones(shape, np.float32)
    bits = np.random.PCG64([seed, *name.encode()]).random_raw(math.prod(shape)) >> np.uint64(40)  # 24 bits: exact in float32
    uniform = (bits.astype(np.float32) / np.float32(2**23) - 1).reshape(shape)
    return uniform * np.float32(math.sqrt(3 / shape[-1]))


def byte_tokenizer(vocab_size: int) -> Tokenizer:
    """Make a byte tokenizer: a token for each byte, three control tokens with a chat template, [259] and so on for the rest."""
    return Tokenizer.from_gguf(byte_metadata(vocab_size))


def byte_metadata(vocab_size: int) -> dict[str, Any]:
    """Make its GGUF metadata. ModelError for a vocabulary without room for the bytes."""
    bytes_ = [BYTE_TO_CHAR[b] for b in range(256)]
    if vocab_size < len(bytes_) + len(SPECIAL):
        raise ModelError(f"a random model needs a vocabulary of at least {len(bytes_) + len(SPECIAL)}, found {vocab_size}.")
    unused = [f"[{i}]" for i in range(len(bytes_) + len(SPECIAL), vocab_size)]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [*bytes_, *SPECIAL, *unused],
        "tokenizer.ggml.token_type": [NORMAL] * 256 + [CONTROL] * len(SPECIAL) + [NORMAL] * len(unused),
        "tokenizer.ggml.merges": [],
        "tokenizer.ggml.bos_token_id": 257,
        "tokenizer.ggml.eos_token_id": 258,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHATML,
    }
