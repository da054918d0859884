"""From a GGUF file to a folder as hubs keep it, for programs that read no GGUF: the inverse of write_gguf.py.

    config.json              the shape, in the keys of transformers
    model.safetensors        weights, unpacked: matrices in one type, vectors in float32, as the file has them
    tokenizer.json …         and the others of write_tokenizer.py
    gguf.json                what the file says of itself and no other of these has a place for

A Llama's Q and K get the row order of hubs, where RoPE turns component i with i + d/2 instead of its neighbour. transformers and
vLLM load the folder; converted to GGUF again it is the same file, byte for byte, where write.py or write_gguf.py had written it.
"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from minillm.errors import ModelError
from minillm.files import new_folder, write_text
from minillm.formats.blocks import BLOCK_TYPES, dequantize
from minillm.formats.expect import Fields, from_file
from minillm.formats.gguf import GGUFFile, open_gguf
from minillm.formats.gguf_write import Streamed
from minillm.formats.recode import Source, recode
from minillm.formats.safetensors import write_safetensors
from minillm.model.config import ModelConfig
from minillm.model.hf_config import ARCHITECTURES
from minillm.model.hf_folder import hub_name
from minillm.model.random_model import tensor_shapes
from minillm.model.rope_files import ROPE_FREQS, llama3_from_gguf, scaling_to_config, shortest
from minillm.model.row_order import halves_from_neighbours, is_turned
from minillm.model.tensor_store import TensorStore
from minillm.model.weights import StoredTensor, config_from_gguf, without_prefix
from minillm.model.write_gguf import ABOUT, is_about
from minillm.model.write_tokenizer import tokenizer_files

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
COMPUTED = ("general.architecture", "general.type", "general.file_type", "general.quantization_version", "general.alignment")


def convert(
    path: str | Path, folder: str | Path, tokenizer: bool = True, dtype: str | None = None,
    progress: Callable[[int], Any] = lambda weights: None
) -> Path:  # fmt: skip
    """Write the model of a GGUF file as a folder, which must be new or empty.

    tokenizer: with its files. dtype: of the matrices, "float32", "float16" or "bfloat16"; None: as most of them are in the file,
    float16 where that is a packed type. progress: called with the number of weights done since the last call.
    ModelError, TokenizerError, GGUFError for what is damaged, and for what a folder cannot say. Nothing is left behind then.
    """
    with open_gguf(path) as gguf:
        with from_file(path):
            config = config_from_gguf(gguf)
            kind = dtype or usual_dtype(path)
            if kind not in DTYPES:
                raise ModelError(f"matrices are written in {' or '.join(DTYPES)}, found {kind!r}.")
            config, tensors = streamed(config, gguf, DTYPES[kind], progress)
            files = described(gguf, config, kind, tokenizer)
        with new_folder(folder, ModelError) as draft:
            for name, values in files.items():
                write_text(draft / name, json.dumps(values, indent=1, ensure_ascii=False) + "\n", ModelError)
            write_safetensors(draft / "model.safetensors", tensors, {"format": "pt"})
    return Path(folder)


def described(gguf: GGUFFile, config: ModelConfig, dtype: str, tokenizer: bool) -> dict[str, dict[str, Any]]:
    """Make all files of a folder but the weights: {name: values}."""
    files = {"config.json": config_json(config, dtype)}
    if tokenizer:
        files |= tokenizer_files(gguf.metadata)
        ids = files["generation_config.json"]
        files["config.json"] |= {key: ids[key] for key in ("bos_token_id", "eos_token_id") if key in ids}
        if said := about(gguf.metadata):
            files[ABOUT] = said
    return files


def streamed(
    config: ModelConfig, gguf: GGUFFile, kind: str, progress: Callable[[int], Any]
) -> tuple[ModelConfig, dict[str, Streamed]]:
    """Check every tensor of a file; {hub's name: its bytes as they will be read}. The shape comes back with Llama 3's scaling."""
    store = TensorStore(gguf.tensors, partial(stored, gguf), gguf.path)
    found = {}
    for name, shape in tensor_shapes(config).items():
        if (tensor := store(name)) is None or tuple(tensor.shape) != shape:
            raise ModelError(f"tensor {name!r} must have shape {shape}, found {tuple(tensor.shape) if tensor else 'none'}.")
        order = halves_from_neighbours(shape[0], config.d_head) if is_turned(name, config) else None
        source = Source(tensor.raw, tensor.type, shape, f"{gguf.path}: tensor {name!r}", gguf.release_pages)
        found[hub_name(name)] = recode(source, BLOCK_TYPES[kind if len(shape) > 1 else "F32"], order, progress)
    if (tensor := store(ROPE_FREQS)) is not None:
        if tuple(tensor.shape) != (config.d_head // 2,):
            raise ModelError(f"tensor {ROPE_FREQS!r} must have shape {(config.d_head // 2,)}, found {tuple(tensor.shape)}.")
        divisors = dequantize(tensor.raw, tensor.type, tensor.shape)
        prefix = f"{gguf.architecture}."
        keys = Fields(without_prefix(gguf.metadata, prefix), f"metadata {prefix}", ModelError)
        config = llama3_from_gguf(keys, divisors, config)
    store.finish()
    return config, found


def stored(gguf: GGUFFile, name: str) -> StoredTensor:
    return StoredTensor(gguf.raw(name), gguf.tensors[name].type, gguf.tensors[name].shape)


def usual_dtype(path: str | Path) -> str:
    """Find the type that most weights of matrices have, where a folder knows it; float16 for packed ones, whose scales are so."""
    counts: dict[str, int] = {}
    with open_gguf(path) as gguf:
        for info in gguf.tensors.values():
            if len(info.shape) > 1:
                counts[info.type.name] = counts.get(info.type.name, 0) + info.size
    most = max(counts, key=lambda name: counts[name], default="F16")
    return next((dtype for dtype, name in DTYPES.items() if name == most), "float16")


def config_json(config: ModelConfig, dtype: str = "bfloat16") -> dict[str, Any]:
    """Say the shape in the keys of transformers. Numbers that a file held in 32 bits become the decimals they were: 1e-05."""
    kind = config.qkv_bias, config.qk_norm
    if (name := next((n for n, traits in ARCHITECTURES.items() if traits == kind), None)) is None:
        raise ModelError(f"{config.name}: no architecture of a folder has both biases and norms on q and k.")
    return {
        "architectures": [name],
        "model_type": name.removesuffix("ForCausalLM").lower(),
        "num_hidden_layers": config.n_layers,
        "hidden_size": config.d_model,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.d_head,
        "intermediate_size": config.d_ff,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": shortest(config.norm_eps),
        "rope_theta": shortest(config.rope_base),
        "rope_scaling": scaling_to_config(config.rope_scaling),
        "tie_word_embeddings": config.tied,
        "hidden_act": "silu",
        "torch_dtype": dtype,
    }


def about(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Select what a file says of itself."""
    said = {key: value for key, value in metadata.items() if key.startswith("general.") and key not in COMPUTED}
    return {key: value for key, value in said.items() if is_about(value)}
