"""QuaRot: a rotation of the residual stream folded into a model's weights; it computes what it did, with no outliers in them.

All layers read the residual stream x and add to it. Where what writes hands out x R, and what reads expects it, nothing else
notices: RMSNorm divides by a length, and a rotation keeps lengths. Only its gain is in the way, so that goes into the matrices
that follow first:

    embedding   E R                                  rows are tokens, each a vector of the stream
    reads       W diag(gain) R                       q, k, v, gate, up, and the head: x R (W diag(g) R)ᵀ = x diag(g) Wᵀ
    writes      Rᵀ W                                 o and down: h (Rᵀ W)ᵀ = (h Wᵀ) R
    gains       1
    the rest    as it was                            biases of q, k, v; norms of q and k

A head that was the embedding becomes a tensor of its own, for it has another gain: the model grows by one. What flows into o and
down is not turned; QuaRot turns it too, for activations' sake, and pays with a Hadamard transform at run time.
Ashkboos et al. 2024, arXiv:2404.00456, §4.1; that norms commute with rotations: SliceGPT, arXiv:2401.15024.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray as Array

from minillm.errors import ModelError
from minillm.formats.blocks import BLOCK_TYPES
from minillm.formats.expect import from_file
from minillm.formats.gguf import GGUFFile
from minillm.formats.gguf_write import Streamed, write_gguf
from minillm.formats.requantize import SPLIT_KEYS, refuse_itself
from minillm.model.adapters import FIELDS
from minillm.model.config import ModelConfig
from minillm.model.random_model import tensor_shapes
from minillm.model.transformer import Transformer
from minillm.model.weights import StoredTensor, config_from_gguf, load_weights
from minillm.model.write import FILE_TYPES
from minillm.quantization.rotations import rotation

DIVISORS = "rope_freqs.weight"  # of RoPE's frequencies: not turned
Progress = Callable[[int], object]
Get = Callable[[str], Array]  # GGUF's name -> a float array

READS = {"attn_q": "attn_norm", "attn_k": "attn_norm", "attn_v": "attn_norm", "ffn_gate": "ffn_norm", "ffn_up": "ffn_norm"}
WRITES = ("attn_output", "ffn_down")
GAINS = ("attn_norm", "ffn_norm", "output_norm")
ROWS = 4096  # turned at a time, in float64


def rotated(config: ModelConfig, get: Get, seed: int = 0) -> Iterator[tuple[str, Array]]:  # -> (GGUF's name, float32 array)
    """Rotate a model tensor by tensor, so that no two of them need be in memory but a matrix and its gain.

    config: of the model that get() reads; the one that comes out is untied(config). Divisors of RoPE (rope_freqs.weight) are not
    handed out: they stay. ModelError for a tensor that is not finite.
    """
    r = rotation(config.d_model, seed)
    for name in tensor_shapes(untied(config)):
        yield name, rotated_tensor(name, config, get, r)


def rotated_tensor(name: str, config: ModelConfig, get: Get, r: Array) -> Array:  # GGUF's name, (d_model, d_model) -> float32
    """Make one tensor of the rotated model."""
    *layer, stem, kind = name.split(".")
    if name == "output.weight":
        weights = get("token_embd.weight" if config.tied else name)
        return turned(weights * get("output_norm.weight"), r, name)
    if name == "token_embd.weight":
        return turned(get(name), r, name)
    if stem in GAINS:
        return np.ones_like(get(name), np.float32)
    # BEGIN SOLUTION ex=07.7
    if kind == "weight" and stem in READS:
        return turned(get(name) * get(".".join((*layer, READS[stem], kind))), r, name)
    if kind == "weight" and stem in WRITES:
        return turned(get(name).T, r, name).T.copy()
    # END SOLUTION
    return get(name)


def turned(weights: Array, r: Array, name: str) -> Array:  # (rows, d), (d, d) float64 -> (rows, d) float32
    """Multiply each row by the rotation, in float64, some rows at a time."""
    if not np.isfinite(weights).all():
        bad = np.count_nonzero(~np.isfinite(weights))
        raise ModelError(f"{name}: expected finite weights to rotate; found {bad:,} of {weights.size:,} NaN or infinite.")
    out = np.empty(weights.shape, np.float32)
    for start in range(0, len(weights), ROWS):
        out[start : start + ROWS] = weights[start : start + ROWS].astype(np.float64) @ r
    return out


def untied(config: ModelConfig) -> ModelConfig:
    """Give the shape of the model after the rotation: its head is a tensor of its own."""
    return replace(config, tied=False)


def rotate_file(source: GGUFFile, path: str | Path, seed: int = 0, progress: Progress = lambda weights: None) -> None:
    """Write the rotated model of a GGUF file, in F32: what quantizers start from. Metadata stay.

    progress: called with the number of weights done since the last call. ModelError for tensors that no model here has, or lacks;
    GGUFError as write_gguf. Nothing is written then.
    """
    refuse_itself(source.path, path)
    with from_file(source.path):
        config = config_from_gguf(source)
        shapes = tensor_shapes(config)
        found = {name: info.shape for name, info in source.tensors.items() if name != DIVISORS}
        if wrong := sorted(name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name)):
            raise ModelError(f"tensor {wrong[0]!r} must have shape {shapes.get(wrong[0])}, found {found.get(wrong[0])}.")
    r = rotation(config.d_model, seed)

    def chunks(name: str) -> Iterator[Array]:
        made = source.dequantize(name) if name == DIVISORS else rotated_tensor(name, config, source.dequantize, r)
        source.release_pages()
        yield made
        progress(made.size)

    shapes = tensor_shapes(untied(config)) | {name: source.tensors[name].shape for name in (DIVISORS,) if name in source.tensors}
    metadata: dict[str, Any] = {key: value for key, value in source.verbatim().items() if key not in SPLIT_KEYS}
    metadata["general.file_type"] = np.uint32(FILE_TYPES["F32"])
    kind = BLOCK_TYPES["F32"]
    write_gguf(path, metadata, {name: Streamed(kind, shape, partial(chunks, name)) for name, shape in shapes.items()})


def rotate_model(transformer: Transformer, seed: int = 0) -> Transformer:
    """Rotate a model of the numpy backend in memory."""
    config, get = transformer.config, tensors_of(transformer)
    if transformer.ops.name != "numpy":
        raise ModelError(f"models are rotated on the numpy backend, found one on {transformer.ops.name}.")
    made = dict(rotated(config, get, seed))
    if transformer.weights.rope_divisors is not None:
        made[DIVISORS] = transformer.weights.rope_divisors

    def stored(name: str) -> StoredTensor | None:
        if (tensor := made.get(name)) is None:
            return None
        return StoredTensor(np.ascontiguousarray(tensor).view(np.uint8).reshape(-1), BLOCK_TYPES["F32"], tensor.shape)

    weights = load_weights(untied(config), stored, transformer.ops)
    return Transformer(untied(config), weights, transformer.ops, transformer.kv)


def tensors_of(transformer: Transformer) -> Get:
    """Give a model's weights by GGUF's names, as its backend has them."""
    weights = transformer.weights
    own = {"token_embd.weight": weights.embedding, "output_norm.weight": weights.norm, "output.weight": weights.head}

    def get(name: str) -> Array:
        if name in own:
            return own[name]
        _, layer, stem, kind = name.split(".")
        field = FIELDS.get(stem, stem.removeprefix("attn_") if stem.endswith(("q_norm", "k_norm")) else stem)
        return getattr(weights.layers[int(layer)], field if kind == "weight" else f"{field}_bias")

    return get
