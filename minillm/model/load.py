"""Open whatever a user names: a known model, a .gguf file, a folder from a hub; get back a model that runs.

transformer, tokenizer = load_model("smollm2-135m")
"""

from os import PathLike
from pathlib import Path

import numpy as np

from minillm.backends import WORTH_COMPILING, fitting_backend, get_backend
from minillm.backends.activations import with_activations
from minillm.backends.ops import Ops
from minillm.cache.kinds import check_kv, without_kernels
from minillm.errors import ModelError
from minillm.formats.expect import from_file, shown
from minillm.formats.gguf import open_gguf
from minillm.formats.gguf_split import named_parts
from minillm.model import zoo
from minillm.model.config import ModelConfig
from minillm.model.draws import draw_all
from minillm.model.params import SamplingParams
from minillm.model.random_model import tensor_shapes
from minillm.model.tensor_store import TensorStore
from minillm.model.tokenizer import Tokenizer
from minillm.model.transformer import Segment, Transformer
from minillm.model.weights import StoredTensor, config_from_gguf, load_weights
from minillm.terminal import notice


def read_config(path: Path) -> ModelConfig:
    """Read the shape of a model without its weights."""
    if path.is_dir():
        from minillm.model.hf_folder import folder_config

        return folder_config(path)
    with open_gguf(path) as gguf:
        return config_from_gguf(gguf)


def load_model(  # str or path, str, str, str -> (Transformer, Tokenizer)
    name: str | PathLike, backend: str | None = None, kv: str = "float32", activations: str = "exact"
) -> tuple[Transformer, Tokenizer]:
    """Load a model by name or path. Weights are read once; the file is closed again where the backend copies them.

    backend: as get_backend; "auto": what fits the model (backends.fitting_backend). kv: what keys and values are kept in
    (cache/kinds.py); "auto": what the backend prefers. activations: "exact", or "int8": rounded (backends/activations.py).
    """
    if kv != "auto":
        check_kv(kv)  # before a large model is loaded
    path = zoo.resolve(name)
    ops = with_activations(get_backend(resolve_backend(backend, path, activations)), activations)
    kv = ops.kv_dtype if kv == "auto" else kv
    if kv not in ("float32", "float16"):
        check_kv(kv, read_config(path).d_head)
    transformer, tokenizer = load_from(path, ops)
    transformer.kv = kv
    if without_kernels(kv, ops):
        notice(f"{ops.name} has no kernels for keys and values in {kv}: they become float32 for each step.")
    if ops.compiling:
        with ops.compiling(types_of(path, activations)):
            compile_kernels(transformer)
    return transformer, tokenizer


def resolve_backend(  # name, "auto" or None, path, str -> name or None
    backend: str | None, path: Path, activations: str = "exact"
) -> str | None:
    """Resolve "auto" to a backend for the model at a path."""
    if backend != "auto":
        return backend
    return fitting_backend(stored_bytes(path), types_of(path, activations), matrix_types(path))


def compile_kernels(transformer: Transformer) -> None:
    """Run a prompt and a decode of dummy tokens, so that a backend compiles its kernels now, not in the first request."""
    prompt = min(16, transformer.config.context_length - 1)  # more than a backend takes for a step of decode
    cache = transformer.new_cache()
    for n in filter(None, (prompt, 1)):
        logits = transformer.logits([Segment([0] * n, cache.length, cache)])
    host, ops = transformer.ops.download(logits), transformer.ops
    draw_all(logits, host, [SamplingParams(temperature=1.0)], [np.random.default_rng(0)], ops)


def load_from(path: Path, ops: Ops) -> tuple[Transformer, Tokenizer]:  # path, backend -> (Transformer, Tokenizer)
    """Load a model from a file or a folder."""
    if path.is_dir():
        from minillm.model.hf_folder import load_folder

        return load_folder(path, ops)
    with open_gguf(path) as gguf, from_file(path):
        config = config_from_gguf(gguf)

        def read(name: str) -> StoredTensor:
            gguf.release_pages()  # the tensor before this one: a backend has its own form of it by now
            info = gguf.tensors[name]
            return StoredTensor(gguf.raw(name), info.type, info.shape)

        tokenizer = Tokenizer.from_gguf(gguf.metadata)
        if tokenizer.vocab_size > config.vocab_size:
            raise ModelError(f"{path}: the tokenizer has {tokenizer.vocab_size:,} tokens, the model {config.vocab_size:,}.")
        store = TensorStore(gguf.tensors, read, path)
        weights = load_weights(config, store, ops)
        store.finish()
        return Transformer(config, weights, ops), tokenizer


def load_parameters(  # a .gguf file -> ModelConfig, {GGUF name: float32 array}
    path: str | Path,
) -> tuple[ModelConfig, dict[str, np.ndarray]]:
    """Load a model for training: every weight in float32. ModelError for a tensor that is missing or of another shape."""
    with open_gguf(path) as gguf:
        config, parameters = config_from_gguf(gguf), {}
        if "rope_freqs.weight" in gguf.tensors:
            raise ModelError(f"{path}: divisors of RoPE's frequencies (rope_freqs.weight) are not supported in training.")
        for name, shape in tensor_shapes(config).items():
            if (info := gguf.tensors.get(name)) is None or info.shape != shape:
                raise ModelError(f"{path}: tensor {name!r} must have shape {shape}, found {info.shape if info else 'none'}.")
            parameters[name] = gguf.dequantize(name)
        if extra := sorted(gguf.tensors.keys() - parameters.keys()):
            few = ", ".join(map(shown, extra[:3]))
            raise ModelError(f"{path}: {len(extra):,} tensors are not part of what is trained: {few}.")
    return config, parameters


def stored_bytes(path: Path) -> int:
    """Count the bytes of a model on disk: the file, all parts of a split one, or all weights of a folder."""
    files = list(path.glob("*.safetensors")) if path.is_dir() else named_parts(path)
    return sum(file.stat().st_size for file in files if file.exists())  # a part that is not there is missed where it is opened


def types_of(path: Path, activations: str = "exact") -> str:
    """Name what kernels a model needs: the types of its matrices, for each of which a backend that compiles has its own, and x.

    For a large model nobody asks whether they are kept.
    """
    types = "a folder's" if path.is_dir() else ", ".join(matrix_types(path))
    if not path.is_dir() and stored_bytes(path) >= WORTH_COMPILING:
        types = "a large file's"
    return types if activations == "exact" else f"{types}, {activations}"


def matrix_types(path: Path) -> list[str]:
    """List the types of a file's matrices that are decoded here; a folder has floats alone, and none is listed."""
    if path.is_dir():
        return []
    with open_gguf(path) as gguf:
        return sorted({t.type.name for t in gguf.tensors.values() if len(t.shape) == 2 and t.type.decodable})


def bits_per_weight(path: Path, config: ModelConfig) -> float:
    """Compute the average stored width of the weights that a token is multiplied with."""
    if path.is_dir():
        return 8 * stored_bytes(path) / config.parameters()
    with open_gguf(path) as gguf:
        unread = () if config.tied else ("token_embd.weight",)  # of a table that is not the head, a step reads one row
        matrices = [t for name, t in gguf.tensors.items() if len(t.shape) == 2 and name not in unread]
        return 8 * sum(t.nbytes for t in matrices) / sum(t.size for t in matrices)
