"""What of a GGUF file would run here, and how: known before a weight is read, from the metadata and the table of tensors.

Three things can stand in the way: an architecture, a tokenizer, or a type of weights that nothing here knows. For each type that
is known, a backend does one of two things with a matrix:

    packed      it is multiplied as it is stored, and unpacked in registers          numba, of most types
    float       it is unpacked once, when the model is loaded                        numpy: all; numba: F16 as it is, the rest

Vectors (norms, biases) are float32 everywhere. A chat template is never rendered for this: it is a program from a stranger.
"""

from dataclasses import replace
from typing import Any

from minillm.backends import BACKENDS, PACKED
from minillm.errors import MiniLLMError
from minillm.formats.blocks import BlockType
from minillm.formats.expect import excerpt, shown
from minillm.formats.float_blocks import SCALED, scale_name
from minillm.formats.gguf import GGUFFile
from minillm.model.config import ModelConfig
from minillm.model.random_model import tensor_shapes
from minillm.model.tokenizer import Tokenizer
from minillm.model.tokenizer.metadata import PREFIX
from minillm.model.weights import config_from_gguf

OPTIONAL = {"rope_freqs.weight"}


def form(backend: str, type: BlockType, matrix: bool = True) -> str | None:  # None: it is not decoded
    """Tell what a backend makes of a tensor of this type."""
    if not type.decodable:
        return None
    if matrix and type.name in PACKED.get(backend, ()):
        return "packed"
    return "float16" if matrix and backend == "numba" and type.name == "F16" else "float32"


def runs(gguf: GGUFFile) -> dict[str, Any]:  # -> fit for JSON
    """Say whether the model of a file runs, what stands in its way, and in which form each backend holds each type."""
    architecture, tokenizer = architecture_of(gguf), tokenizer_of(gguf)
    types: dict[str, Any] = {}
    for info in gguf.tensors.values():
        row = types.setdefault(info.type.name, {"tensors": 0, "matrices": 0, "first": info.name[:100]})
        row["tensors"] += 1
        row["matrices"] += len(info.shape) == 2
        row |= {backend: form(backend, info.type, row["matrices"] > 0) for backend in BACKENDS}
    undecoded = [name for name, row in types.items() if row["numpy"] is None]
    good = not (architecture["why"] or tokenizer["why"] or undecoded)
    return {"runs": good, "architecture": architecture, "tokenizer": tokenizer, "types": types, "not_decoded": undecoded}


def architecture_of(gguf: GGUFFile) -> dict[str, Any]:  # -> name, why it does not run or None
    found = gguf.metadata.get("general.architecture")
    name = excerpt(found) if isinstance(found, str) else None
    kind = gguf.metadata.get("general.type", "model")
    try:
        if kind != "model":
            return {"name": name, "why": f"general.type is {shown(kind)}, not 'model'"}
        return {"name": name, "why": left_over(gguf, config_from_gguf(gguf))}
    except MiniLLMError as error:
        return {"name": name, "why": without(error, gguf)}


def left_over(gguf: GGUFFile, config: ModelConfig) -> str | None:
    """Say which tensors a model of this shape lacks, does not use, or has in another shape."""
    layers = min(config.n_layers, len(gguf.tensors))  # of a million layers that a file claims, one that it lacks will do
    expected = tensor_shapes(replace(config, n_layers=layers))
    names = gguf.tensors.keys()
    optional = OPTIONAL | {scale_name(name) for name, info in gguf.tensors.items() if info.type.name in SCALED}
    shaped = {name for name in expected.keys() & names if gguf.tensors[name].shape != expected[name]}
    for wrong, what in (
        (expected.keys() - names, "missing"), (names - expected.keys() - optional, "not used"), (shaped, "of another shape")
    ):  # fmt: skip
        if wrong:
            return f"{len(wrong):,} tensors are {what}, such as {shown(min(wrong))}"
    return None


def tokenizer_of(gguf: GGUFFile) -> dict[str, Any]:  # -> model, pre-tokenizer, tokens, why it does not run or None
    names = {key: gguf.metadata.get(PREFIX + key) for key in ("model", "pre")}
    found: dict[str, Any] = {key: excerpt(name) if isinstance(name, str) else None for key, name in names.items()}
    try:
        tokens = Tokenizer.from_gguf(gguf.metadata).vocab_size
        rows = gguf.tensors["token_embd.weight"].shape[0] if "token_embd.weight" in gguf.tensors else tokens
        why = f"it has {tokens:,} tokens, the embedding {rows:,} rows" if tokens > rows else None
        return found | {"tokens": tokens, "why": why}
    except MiniLLMError as error:
        return found | {"tokens": None, "why": without(error, gguf)}


def without(error: MiniLLMError, gguf: GGUFFile) -> str:
    """Take the file's name off a message, which stands under it."""
    return str(error).removeprefix(f"{gguf.path}: ").rstrip(".")
