"""From a model in memory to a file: the inverse of weights.py.

The file must say everything that the arrays do not: the shape under the architecture's keys, the tokenizer, a name. Other
programs read it too (llama.cpp, the hub), so it is written as they want it: matrices in 16 bits, vectors, which are small and
are added or multiplied once a token, in 32; a tied head not at all.

    config_from_gguf(open_gguf(path)) == config           but that the file holds norm_eps and rope_base in float32

What is called llama turns neighbouring pairs in RoPE, qwen2 and qwen3 halves: each architecture is one such choice, with or
without biases and norms on queries and keys; a llama may have the biases too. Keys:
github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from minillm.errors import ModelError
from minillm.formats.blocks import BLOCK_TYPES
from minillm.formats.gguf_write import Streamed, encoded, write_gguf
from minillm.model.config import ModelConfig
from minillm.model.random_model import tensor_shapes
from minillm.model.rope_files import rope_freqs, scaling_to_gguf
from minillm.model.weights import ARCHITECTURES

FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32}  # general.file_type
LLAMA_WITH_BIASES = ("llama", True, True, False)  # its biases are there where the tensors are
DTYPES: dict[str, np.dtype] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2")}
CHUNK = 1 << 18  # weights converted at a time


def write_model(
    path: str | Path, config: ModelConfig, parameters: Mapping[str, np.ndarray], tokenizer: Mapping[str, Any],
    extra: Mapping[str, Any] | None = None, dtype: str = "F16"
) -> None:
    """Write a GGUF file that LLM(path) and llama.cpp run; one that was there is replaced.

    config:     ModelConfig; see `shape_metadata` for what a file can say.
    parameters: {GGUF's name: array}, all that the config asks for (random_model.tensor_shapes) and no others.
    tokenizer:  its metadata (tokenizer.ggml.tokens and so on), as train_bpe and byte_metadata give it.
    extra:      more metadata, such as {"general.license": "apache-2.0"}; what the others say cannot be overruled.
    dtype:      of the matrices, "F16" or "F32".

    Raises ModelError for parts that do not fit each other, and for weights that are not finite in this dtype; GGUFError as
    write_gguf. Nothing is written then.
    """
    if dtype not in DTYPES:
        raise ModelError(f"matrices are written in {' or '.join(DTYPES)}, found {dtype!r}.")
    metadata = model_metadata(config, tokenizer, extra)
    tensors = {**rope_freqs(config), **stored_tensors(config, parameters, dtype)}
    write_gguf(path, metadata | {"general.file_type": FILE_TYPES[dtype]}, tensors)


def model_metadata(config: ModelConfig, tokenizer: Mapping[str, Any], extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Make all metadata of a file. Call it before a long training: it knows without weights what cannot be written."""
    found = len(tokenizer.get("tokenizer.ggml.tokens", ()))
    if found != config.vocab_size:
        raise ModelError(f"{config.name}: the tokenizer has {found:,} tokens, the model's vocabulary {config.vocab_size:,}.")
    metadata = {**(extra or {}), **shape_metadata(config), **tokenizer}
    for key, value in metadata.items():
        encoded(value, f"metadata {key!r}")  # or GGUFError
    return metadata


def shape_metadata(config: ModelConfig) -> dict[str, Any]:
    """Describe the shape in GGUF's keys. ModelError for a combination that no architecture has."""
    kind = (config.rope_interleaved, config.qkv_bias, config.qk_norm)
    names = [name for name, traits in ARCHITECTURES.items() if traits == kind or (name, *kind) == LLAMA_WITH_BIASES]
    if not names:
        traits = ("rope_interleaved", "qkv_bias", "qk_norm")
        told = ", ".join(f"{t} = {v}" for t, v in zip(traits, kind, strict=True))
        known = "; ".join(f"{name} {list(values)}" for name, values in ARCHITECTURES.items())
        raise ModelError(f"{config.name}: no architecture of a GGUF file has {told}; these are known: {known}.")
    shape: dict[str, Any] = {
        "context_length": config.context_length,
        "embedding_length": config.d_model,
        "block_count": config.n_layers,
        "feed_forward_length": config.d_ff,
        "vocab_size": config.vocab_size,
        "attention.head_count": config.n_heads,
        "attention.head_count_kv": config.n_kv_heads,
        "attention.key_length": config.d_head,
        "attention.value_length": config.d_head,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "rope.dimension_count": config.d_head,
        "rope.freq_base": config.rope_base,
    }
    shape |= scaling_to_gguf(config.rope_scaling)
    general = {"general.architecture": names[0], "general.type": "model", "general.name": config.name}
    return general | {f"{names[0]}.{key}": value for key, value in shape.items()}


def stored_tensors(config: ModelConfig, parameters: Mapping[str, np.ndarray], dtype: str) -> dict[str, Streamed]:
    """Check the arrays, and convert each when it is written, in the order of the forward pass's names."""
    shapes = tensor_shapes(config)
    if different := sorted(shapes.keys() ^ parameters.keys()):
        have = "is missing" if different[0] in shapes else "is not part of the model"
        raise ModelError(f"{config.name}: expected {len(shapes)} tensors, found {len(parameters)}: {different[0]!r} {have}.")
    stored = {}
    for name, shape in shapes.items():
        array = np.asarray(parameters[name])
        if array.shape != shape:
            raise ModelError(f"{config.name}: tensor {name!r} must have shape {shape}, found {array.shape}.")
        kind = dtype if array.ndim > 1 else "F32"
        stored[name] = Streamed(BLOCK_TYPES[kind], shape, partial(converted, array, kind, f"{config.name}: tensor {name!r}"))
    return stored


def converted(array: np.ndarray, kind: str, what: str) -> Iterator[np.ndarray]:  # -> rows as they are stored, a few MB at a time
    """Convert an array to what is stored of it. ModelError where that is not finite."""
    step = max(1, CHUNK * len(array) // array.size)
    for start in range(0, len(array), step):
        part = array[start : start + step]
        with np.errstate(over="ignore"):
            rows = part.astype(DTYPES[kind], order="C")
        if bad := int(np.count_nonzero(~np.isfinite(rows))):
            peak = f"the largest magnitude is {np.abs(part).max():.4g}"
            raise ModelError(f"{what}: {bad:,} of {part.size:,} values are not finite in {kind}; {peak}.")
        yield rows
