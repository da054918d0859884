"""From a hub's folder to a GGUF file: the inverse of write_folder.py.

Loading a folder is translation already (hf_folder.py): of names, of the configuration, of the tokenizer. Here the same numbers
are written instead of run. Three things differ in a GGUF file: a Llama's Q and K have their rows in pairs (row_order.py), Llama
3's scaling of RoPE is a tensor, and vectors, which are added or multiplied once a token, stay in 32 bits.

    config.json   tokenizer.json   tokenizer_config.json   generation_config.json   *.safetensors   gguf.json
                                         ──▶  metadata | table | tensors, one after another

Whatever can be wrong with a folder is found before a byte is written, but for weights that are NaN or too large, which are seen
when they are read. The model is never in memory: some rows at a time are (formats/recode.py).
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from minillm.errors import ModelError
from minillm.formats.blocks import BLOCK_TYPES
from minillm.formats.expect import MOST, Fields, from_file, is_unicode, shown
from minillm.formats.gguf_write import Streamed, write_gguf
from minillm.formats.json_file import read_object
from minillm.formats.recode import Source, recode
from minillm.model.config import ModelConfig
from minillm.model.defaults import GGUF_KEYS
from minillm.model.hf_config import folder_config
from minillm.model.hf_folder import folder_store, hub_name
from minillm.model.hf_tokenizer import padded, tokenizer_metadata
from minillm.model.random_model import tensor_shapes
from minillm.model.rope_files import rope_freqs
from minillm.model.row_order import is_turned, neighbours_from_halves
from minillm.model.tensor_store import TensorStore
from minillm.model.write import FILE_TYPES, model_metadata

ABOUT = "gguf.json"  # what a file says of itself that no file of a hub has a place for: author, licence, description
MOST_ABOUT = 1_000_000  # bytes of it


def convert(
    folder: str | Path, path: str | Path, kind: str = "F16", progress: Callable[[int], Any] = lambda weights: None
) -> Path:
    """Write the model of a folder as a GGUF file; one that was there is replaced.

    kind: of the matrices, "F16", "F32" or "BF16". progress: called with the number of weights done since the last call.
    ModelError, TokenizerError for what is missing, damaged or not supported, by name; GGUFError as write_gguf. Then the file that
    was there is as it was.
    """
    folder = Path(folder)
    if kind not in FILE_TYPES:
        raise ModelError(f"matrices are written in {' or '.join(FILE_TYPES)}, found {kind!r}. Fewer bits: minillm quantize.")
    config = folder_config(folder)
    extra, name = about(folder)
    config = replace(config, rope_interleaved=not (config.qkv_bias or config.qk_norm), name=name or config.name)
    tokenizer = padded(tokenizer_metadata(folder, config.vocab_size), config.vocab_size)
    metadata = model_metadata(config, tokenizer, extra) | {"general.file_type": FILE_TYPES[kind]}
    with from_file(folder):
        tensors = streamed(config, folder_store(folder, config), kind, progress)
    write_gguf(path, metadata, {**rope_freqs(config), **tensors})
    return Path(path)


def streamed(config: ModelConfig, store: TensorStore, kind: str, progress: Callable[[int], Any]) -> dict[str, Streamed]:
    """Check every tensor of a folder; {GGUF's name: its bytes as they will be read}. config: of the GGUF file."""
    found = {}
    for name, shape in tensor_shapes(config).items():
        hub = hub_name(name)
        if (tensor := store(hub)) is None:
            raise ModelError(f"tensor {hub!r} of shape {shape} is missing.")
        if tuple(tensor.shape) != shape:
            raise ModelError(f"tensor {hub!r} must have shape {shape}, found {tuple(tensor.shape)}.")
        order = neighbours_from_halves(shape[0], config.d_head) if is_turned(name, config) else None
        target = BLOCK_TYPES[kind if len(shape) > 1 else "F32"]
        source = Source(tensor.raw, tensor.type, shape, f"{store.where}: tensor {hub!r}", tensor.done)
        found[name] = recode(source, target, order, progress)
    store.finish()
    return found


def about(folder: Path) -> tuple[dict[str, Any], str | None]:  # -> general.* metadata, the model's name
    """Read what the folder says of the model, and the sampling that its authors recommend, in GGUF's keys."""
    path = folder / ABOUT
    values = read_object(path, ModelError, MOST_ABOUT) or {}
    for key, value in values.items():
        if not key.startswith("general.") or not is_about(value):
            wanted = "a key general.* with text or a list of texts"
            raise ModelError(f"{path}: {shown(key)}: expected {wanted}, found {shown(value)}.")
    name = values.pop("general.name", None)
    said = folder / "generation_config.json"
    fields = Fields(read_object(said, ModelError, MOST_ABOUT) or {}, f"{said}: ", ModelError)
    for field, key in GGUF_KEYS.items():
        if (value := fields.number(field, None, -MOST, MOST)) is not None:
            values[f"general.sampling.{key}"] = np.int32(value) if field == "top_k" else float(value)
    return values, name if isinstance(name, str) else None


def is_about(value: Any) -> bool:
    return isinstance(value, str) and is_unicode(value) or isinstance(value, list) and all(map(is_about, value))
