"""An adapter on disk, in the two forms that others read: a folder as PEFT writes it, and a GGUF file as llama.cpp wants it.

    PEFT   adapter_config.json          {"peft_type": "LORA", "r", "lora_alpha", "target_modules", …}
           adapter_model.safetensors    base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight   (r, d_in), …lora_B…
    GGUF   general.type = "adapter", adapter.type = "lora", adapter.lora.alpha, and its architecture
           blk.0.attn_q.weight.lora_a (r, d_in), blk.0.attn_q.weight.lora_b (d_out, r)

One thing is more than a name. Llama's GGUF files have the rows of Q and K in another order than hubs: RoPE turns neighbours
there, and component i with i + d/2 here. ΔW = B A has the rows of B: so B of attn_q and attn_k is put in the model's order,
and A stays. Files are untrusted: shapes are checked before numbers, numbers before use.

Sources: huggingface.co/docs/peft (checkpoint format); llama.cpp, convert_lora_to_gguf.py and src/llama-adapter.cpp.
"""

import json
import re
from os import PathLike
from pathlib import Path

import numpy as np

from minillm.errors import ModelError
from minillm.files import replacing
from minillm.formats.blocks import BLOCK_TYPES, dequantize
from minillm.formats.expect import Fields, same, shown
from minillm.formats.gguf import open_gguf
from minillm.formats.gguf_write import write_gguf
from minillm.formats.safetensors import encoded, open_safetensors
from minillm.model.config import ModelConfig
from minillm.model.hf_folder import LAYER_NAMES, read_json
from minillm.model.lora import MATRICES, A, Adapter, B, check_numbers, check_shapes
from minillm.model.tensor_store import tensors_of
from minillm.model.weights import ARCHITECTURES, StoredTensor

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MODULES = {LAYER_NAMES[matrix]: matrix for matrix in MATRICES}  # "self_attn.q_proj": "attn_q"
PEFT_NAME = re.compile(r"base_model\.model\.model\.layers\.(0|[1-9][0-9]{0,5})\.(\w+\.\w+)\.lora_([AB])\.weight")
PLAIN = {  # of adapter_config.json, where they are there at all: with other values an adapter computes something else
    "fan_in_fan_out": False, "bias": "none", "lora_bias": False, "alpha_pattern": {}, "modules_to_save": [],
    "target_parameters": [], "trainable_token_indices": [], "alora_invocation_tokens": [], "layer_replication": [],
}  # fmt: skip
# How A and B began says nothing of what they are, unless the base was changed with them (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA):
# peft changes it again on loading, and we would add the adapter to a base that it was not trained on.
STARTS = (True, False, "gaussian", "eva", "orthogonal")
SILENT = {  # keys that say nothing of what an adapter computes: where it comes from, where it goes, how it was trained
    "task_type", "base_model_name_or_path", "inference_mode", "lora_dropout", "target_modules", "exclude_modules", "revision",
    "layers_pattern", "layers_to_transform", "auto_mapping", "megatron_config", "megatron_core", "peft_version", "eva_config",
    "loftq_config", "corda_config", "lora_ga_config", "qalora_group_size", "ensure_weight_tying", "runtime_config",
}  # fmt: skip


def load_adapter(path: str | PathLike, config: ModelConfig) -> Adapter:  # a PEFT folder or a GGUF file, ModelConfig -> Adapter
    """Read an adapter for this model. ModelError or GGUFError where it is damaged, of another model, or of a kind not known."""
    path = Path(path)
    if path.name in (CONFIG, WEIGHTS):
        path = path.parent
    stored, alpha, paired = read_peft(path) if path.is_dir() else read_gguf(path, config)
    check_shapes(config, {name: tensor.shape for name, tensor in stored.items()}, alpha, path)
    weights = {}
    for name, tensor in stored.items():
        weights[name] = np.empty(tensor.shape, np.float32)
        dequantize(tensor.raw, tensor.type, tensor.shape, out=weights[name])
    check_numbers(weights, path)
    return Adapter(in_order(weights, config, paired, config.rope_interleaved), alpha)


def in_order(weights: dict[str, np.ndarray], config: ModelConfig, paired: bool, wanted: bool) -> dict[str, np.ndarray]:
    """Reorder the rows of Q's and K's B, from RoPE on neighbours (paired) or by halves to the wanted order.

    paired: components 0, d/2, 1, d/2 + 1, … of each head, as hubs number them; by halves: 0, 1, 2, …
    """
    if paired == wanted:
        return weights
    axes = (config.d_head // 2, 2) if paired else (2, config.d_head // 2)
    turned = {}
    for name, array in weights.items():
        if name.endswith(B) and name.split(".")[2] in ("attn_q", "attn_k"):
            array = np.ascontiguousarray(array.reshape(-1, *axes, array.shape[1]).swapaxes(1, 2)).reshape(array.shape)
        turned[name] = array
    return turned


# --- GGUF -----------------------------------------------------------------------------------------------------------


def save_gguf(path: str | Path, adapter: Adapter, config: ModelConfig) -> None:
    """Write an adapter as llama.cpp reads it, in float32; one that was there is replaced."""
    architecture = architecture_of(config)
    metadata = {
        "general.architecture": architecture,
        "general.type": "adapter",
        "general.name": f"adapter of {config.name}",
        "adapter.type": "lora",
        "adapter.lora.alpha": float(adapter.alpha),
    }
    weights = in_order(adapter.weights, config, config.rope_interleaved, ARCHITECTURES[architecture][0])
    write_gguf(path, metadata, {name: np.asarray(array, np.float32) for name, array in weights.items()})


def architecture_of(config: ModelConfig) -> str:  # -> GGUF's name for what has these biases and norms
    if config.rope_interleaved:  # a llama, which may have biases too
        return "llama"
    for name, (_, *traits) in ARCHITECTURES.items():
        if traits == [config.qkv_bias, config.qk_norm]:
            return name
    raise ModelError(f"{config.name}: no architecture of a GGUF file has both biases and norms on q and k.")


def read_gguf(  # -> {name: StoredTensor}, alpha, are Q's and K's rows paired
    path: Path, config: ModelConfig
) -> tuple[dict[str, StoredTensor], float, bool]:
    """Read a GGUF adapter; only what the file says of itself is checked."""
    gguf = open_gguf(path)  # stays open as long as its tensors are used
    expected = {"general.type": "adapter", "adapter.type": "lora", "general.architecture": architecture_of(config)}
    keys = Fields(gguf.metadata, f"{path}: metadata ", ModelError)
    for key, right in expected.items():
        if (found := keys.text(key, None)) != right:
            found = "nothing" if found is None else shown(found)
            raise ModelError(f"{path}: metadata {key!r} must be {right!r} for an adapter of {config.name}, found {found}.")
    if "adapter.alora.invocation_tokens" in gguf.metadata:
        raise ModelError(f"{path}: an adapter that begins to work at certain tokens (aLoRA) is not supported, plain LoRA is.")
    stored = tensors_of(gguf)
    return stored, keys.number("adapter.lora.alpha"), ARCHITECTURES[expected["general.architecture"]][0]


# --- PEFT -----------------------------------------------------------------------------------------------------------


def save_peft(folder: str | Path, adapter: Adapter, config: ModelConfig, base: str = "") -> None:
    """Write an adapter as the peft library reads it. base: what to call the model in its configuration."""
    folder, pairs = Path(folder), adapter.pairs()
    ranks = {peft_module(name): len(a) for name, (a, _) in pairs.items()}
    rank = max(ranks.values())
    weights = in_order(adapter.weights, config, config.rope_interleaved, False)
    tensors = {}
    for name, array in weights.items():
        side = "lora_A" if name.endswith(A) else "lora_B"
        tensors[f"base_model.model.{peft_module(name)}.{side}.weight"] = np.asarray(array, np.float32)
    about = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base or config.name, "inference_mode": True,
        "r": rank, "lora_alpha": adapter.alpha, "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False,
        "rank_pattern": {module: r for module, r in ranks.items() if r != rank},
        "target_modules": sorted({module.rpartition(".")[2] for module in ranks}),
    }  # fmt: skip
    with replacing(folder / WEIGHTS, ModelError) as file:
        for part in encoded(tensors, {"format": "pt"}):
            file.write(part)
    with replacing(folder / CONFIG, ModelError) as file:
        file.write(json.dumps(about, indent=2).encode())


def peft_module(name: str) -> str:  # "blk.0.attn_q.weight…" -> "model.layers.0.self_attn.q_proj"
    _, layer, matrix, *_ = name.split(".")
    return f"model.layers.{layer}.{LAYER_NAMES[matrix]}"


def read_peft(  # -> {GGUF's name: StoredTensor}, alpha, False: hubs have the rows by halves
    folder: Path
) -> tuple[dict[str, StoredTensor], float, bool]:
    """Read a PEFT folder. ModelError for a configuration whose adapter would compute something else than plain LoRA."""
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise ModelError(f"{folder}: an adapter's folder must hold {CONFIG} and {WEIGHTS}, this one has no {file}.")
    about = Fields(read_json(folder / CONFIG), f"{folder / CONFIG}: ", ModelError)
    stored, rank, patterns = {}, about.whole("r", low=1), about.inner("rank_pattern", {}).values
    for name, tensor in open_safetensors(folder / WEIGHTS).items():
        match = PEFT_NAME.fullmatch(name)
        if not match or match[2] not in MODULES:
            known = ", ".join(MODULES)
            raise ModelError(f"{folder / WEIGHTS}: {shown(name)} is not lora_A or lora_B of a layer's {known}.")
        axis = 0 if match[3] == "A" else 1
        if not patterns and len(tensor.shape) == 2 and tensor.shape[axis] != rank:
            raise ModelError(f"{folder}: r is {rank!r} in {CONFIG}, the rank of {name!r} is {tensor.shape[axis]:,}.")
        ours = f"blk.{match[1]}.{MODULES[match[2]]}.weight{A if match[3] == 'A' else B}"
        stored[ours] = StoredTensor(tensor.raw, BLOCK_TYPES[tensor.dtype], tensor.shape)
    alpha = about.number("lora_alpha")
    check_plain(about)
    return stored, alpha, False


def check_plain(about: Fields) -> None:  # Fields of adapter_config.json
    """Check that a configuration asks for no more than y = x Wᵀ + (α/r) (x Aᵀ) Bᵀ. An unknown key must be empty."""
    about.one_of("peft_type", ("LORA",))
    about.one_of("init_lora_weights", STARTS, None)
    for key, value in about.unread().items():
        if key in PLAIN or key not in SILENT:
            plain = PLAIN.get(key, False)
            if not (same(value, plain) or key not in PLAIN and value in ({}, [], "")):
                about.fail(key, f"{plain!r}, as in plain LoRA", shown(value))
