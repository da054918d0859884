"""From a file to a model: read the shape, find each weight by its name, hand it to the backend.

GGUF names tensors the same way for every model: `token_embd.weight`, then per layer `blk.3.attn_q.weight` and so on,
`output_norm.weight`, and `output.weight` where the head is not tied. The metadata gives the shape under the name of the
architecture (`llama.block_count`, `qwen2.block_count`). The file is untrusted: each value has its type and range,
each tensor's shape is checked against the configuration before anything is computed, and no tensor is left over.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from minillm.backends.ops import Ops
from minillm.errors import ModelError
from minillm.formats.expect import Fields, from_file, shown
from minillm.formats.gguf import GGUFFile
from minillm.model.config import ModelConfig
from minillm.model.rope_files import SCALES, scaling_from_gguf

ARCHITECTURES = {  # name: RoPE pairs interleaved, bias on q, k, v, norm on q and k
    "llama": (True, False, False),
    "qwen2": (False, True, False),
    "qwen3": (False, False, True),
}


class StoredTensor(NamedTuple):
    """A tensor as stored in a file: bytes, block type, shape (rows, columns). A backend converts it. done: call it after that.

    scale: (1,) or (rows,) float32, a factor of its weights, of types whose scales lie apart (formats/float_blocks.py).
    """

    raw: np.ndarray
    type: Any  # BlockType
    shape: tuple[int, ...]
    done: Callable[[], object] = lambda: None
    scale: np.ndarray | None = None


@dataclass(slots=True)
class LayerWeights:
    """One layer. Matrices are what the backend made of (d_out, d_in); vectors are float32; absent ones None."""

    attn_norm: np.ndarray
    q: object
    k: object
    v: object
    o: object
    ffn_norm: np.ndarray
    gate: object
    up: object
    down: object
    q_bias: np.ndarray | None = None
    k_bias: np.ndarray | None = None
    v_bias: np.ndarray | None = None
    q_norm: np.ndarray | None = None
    k_norm: np.ndarray | None = None


@dataclass(slots=True)
class Weights:
    """All weights of a model; a tied head is the embedding itself."""

    embedding: object
    layers: list[LayerWeights]
    norm: np.ndarray
    head: object
    rope_divisors: np.ndarray | None = None


def config_from_gguf(gguf: GGUFFile) -> ModelConfig:
    """Read the model's shape from the file's metadata; ModelError names the key that is missing or out of range."""
    file = Fields(gguf.metadata, f"{gguf.path}: metadata ", ModelError)
    architecture = file.text("general.architecture")
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ModelError(f"{gguf.path}: architecture {shown(architecture)} is not supported; these are: {known}.")
    if "token_embd.weight" not in gguf.tensors:
        raise ModelError(f"{gguf.path}: tensor 'token_embd.weight' is missing.")

    keys = Fields(without_prefix(gguf.metadata, f"{architecture}."), f"{gguf.path}: metadata {architecture}.", ModelError)
    interleaved, qkv_bias, qk_norm = ARCHITECTURES[architecture]
    d_model, n_heads = keys.whole("embedding_length", low=1), keys.whole("attention.head_count", low=1)
    d_head = keys.whole("attention.key_length", d_model // n_heads)
    if (turned := keys.whole("rope.dimension_count", d_head)) != d_head:
        raise ModelError(f"{gguf.path}: RoPE on {turned:,} of {d_head:,} components is not supported, all or none are turned.")
    if not keys.flag("attention.causal", True):
        raise ModelError(f"{gguf.path}: attention that looks ahead ({architecture}.attention.causal is false) is not supported.")
    context = keys.whole("context_length")
    with from_file(gguf.path):
        return ModelConfig(
            n_layers=keys.whole("block_count"),
            d_model=d_model,
            n_heads=n_heads,
            n_kv_heads=keys.whole("attention.head_count_kv", n_heads),
            d_head=d_head,
            d_ff=keys.whole("feed_forward_length"),
            vocab_size=gguf.tensors["token_embd.weight"].shape[0],
            context_length=context,
            norm_eps=keys.number("attention.layer_norm_rms_epsilon", low=0, high=SCALES[1]),
            rope_base=keys.number("rope.freq_base", 10000.0, *SCALES),
            rope_interleaved=interleaved,
            rope_scaling=scaling_from_gguf(keys, context),
            tied="output.weight" not in gguf.tensors,
            qkv_bias=qkv_bias or "blk.0.attn_q.bias" in gguf.tensors,  # a llama may have them: InternLM, Qwen in llama's clothes
            qk_norm=qk_norm,
            name=model_name(gguf.metadata),
        )


def without_prefix(  # {key: value}, "llama." -> {the rest of the key: value}
    values: dict[str, Any], prefix: str
) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}


def model_name(metadata: dict[str, Any]) -> str:  # -> what to call the model in a table or a title
    """Make a name of base name and size where the file gives both ("smollm2 135M"): its full name is often a checkpoint's."""
    parts: list[Any] = [metadata.get(f"general.{key}") for key in ("basename", "size_label")]
    return " ".join(parts) if all(isinstance(p, str) for p in parts) else str(metadata.get("general.name", "model"))


def load_weights(  # ModelConfig, (name, shape) -> stored tensor or None, backend -> Weights
    config: ModelConfig, tensor: Callable[..., StoredTensor | None], ops: Ops
) -> Weights:
    """Collect the weights by GGUF's names. `tensor` returns None for a name that the file does not have."""

    def matrix(name: str, *shape: int) -> Any:
        return ops.load_matrix(required(name, shape))

    def vector(name: str, *shape: int) -> Any:
        return ops.load_matrix(required(name, shape))  # float32: so the contract of a backend (backends/ops.py)

    def required(name: str, shape: tuple[int, ...]) -> StoredTensor:
        if (found := tensor(name)) is None:
            raise ModelError(f"{config.name}: tensor {name!r} of shape {shape} is missing.")
        if tuple(found.shape) != shape:
            raise ModelError(f"{config.name}: tensor {name!r} must have shape {shape}, found {tuple(found.shape)}.")
        return found

    c, wide, narrow = config, config.n_heads * config.d_head, config.n_kv_heads * config.d_head
    embedding = matrix("token_embd.weight", c.vocab_size, c.d_model)
    layers = []
    for i in range(c.n_layers):
        b = f"blk.{i}."
        layer = LayerWeights(
            attn_norm=vector(b + "attn_norm.weight", c.d_model),
            q=matrix(b + "attn_q.weight", wide, c.d_model),
            k=matrix(b + "attn_k.weight", narrow, c.d_model),
            v=matrix(b + "attn_v.weight", narrow, c.d_model),
            o=matrix(b + "attn_output.weight", c.d_model, wide),
            ffn_norm=vector(b + "ffn_norm.weight", c.d_model),
            gate=matrix(b + "ffn_gate.weight", c.d_ff, c.d_model),
            up=matrix(b + "ffn_up.weight", c.d_ff, c.d_model),
            down=matrix(b + "ffn_down.weight", c.d_model, c.d_ff),
        )
        if c.qkv_bias:
            layer.q_bias = vector(b + "attn_q.bias", wide)
            layer.k_bias = vector(b + "attn_k.bias", narrow)
            layer.v_bias = vector(b + "attn_v.bias", narrow)
        if c.qk_norm:
            layer.q_norm = vector(b + "attn_q_norm.weight", c.d_head)
            layer.k_norm = vector(b + "attn_k_norm.weight", c.d_head)
        layers.append(layer)
    divisors = vector("rope_freqs.weight", c.d_head // 2) if tensor("rope_freqs.weight") is not None else None
    if divisors is not None and not (np.isfinite(divisors) & (divisors > 0)).all():
        found = f"{divisors.min()} to {divisors.max()}"
        raise ModelError(f"{config.name}: 'rope_freqs.weight' must hold finite numbers above 0, found {found}.")
    return Weights(
        embedding=embedding,
        layers=layers,
        norm=vector("output_norm.weight", c.d_model),
        head=embedding if c.tied else matrix("output.weight", c.vocab_size, c.d_model),
        rope_divisors=divisors,
    )
