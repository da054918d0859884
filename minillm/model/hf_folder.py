"""A model as hubs keep it: a folder with config.json, tokenizer.json and safetensors.

It holds the same numbers as a GGUF file under other names, so loading it is translation: keys of the configuration
(hf_config.py), the tokenizer into the metadata that GGUF would have (hf_tokenizer.py), and names of tensors, here. One difference
matters: these files pair the components of RoPE by halves, for every architecture.
"""

import re
from pathlib import Path

import numpy as np

from minillm.backends.ops import Ops
from minillm.errors import ModelError
from minillm.formats.blocks import BLOCK_TYPES
from minillm.formats.expect import Fields, from_file, shown
from minillm.formats.json_file import read_object
from minillm.formats.safetensors import SafeTensor, open_safetensors
from minillm.model.config import ModelConfig
from minillm.model.hf_config import folder_config, read_json
from minillm.model.hf_tokenizer import tokenizer_metadata
from minillm.model.tensor_store import TensorStore
from minillm.model.tokenizer import Tokenizer
from minillm.model.transformer import Transformer
from minillm.model.weights import StoredTensor, load_weights

__all__ = ["LAYER_NAMES", "folder_config", "load_folder", "read_json", "tokenizer_metadata"]

NAMES = {  # GGUF: hub
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
DERIVED = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")  # RoPE's frequencies, which old files keep: not read
INDEX = "model.safetensors.index.json"


def load_folder(folder: Path, ops: Ops) -> tuple[Transformer, Tokenizer]:  # path, backend -> (Transformer, Tokenizer)
    """Load a model from a folder. ModelError or TokenizerError for what is missing, left over or not supported, by name."""
    config = folder_config(folder)
    tokenizer = Tokenizer.from_gguf(tokenizer_metadata(folder, config.vocab_size))
    with from_file(folder):
        store = folder_store(folder, config)
        weights = load_weights(config, lambda name: store(hub_name(name)), ops)
        store.finish()
        return Transformer(config, weights, ops), tokenizer


def folder_store(folder: Path, config: ModelConfig) -> TensorStore:  # path, ModelConfig -> TensorStore by hub's names
    """Map the tensors of all files, except redundant ones: frequencies that follow from the shape, a head that is tied."""
    tensors: dict[str, SafeTensor] = {}
    for file in weight_files(folder):
        opened = open_safetensors(file)
        if twice := sorted(opened.keys() & tensors.keys()):
            raise ModelError(f"{file}: tensor {shown(twice[0])} is in another file too.")
        tensors |= opened
    head, embedding = (tensors.get(NAMES[name]) for name in ("output.weight", "token_embd.weight"))
    names = {name for name in tensors if not DERIVED.fullmatch(name)}
    if config.tied and head and embedding and head[1:] == embedding[1:] and np.array_equal(head.raw, embedding.raw):
        names.discard(NAMES["output.weight"])

    def read(name: str) -> StoredTensor:
        found = tensors[name]
        return StoredTensor(found.raw, BLOCK_TYPES[found.dtype], found.shape, found.release_pages)

    return TensorStore(names, read, folder)


def weight_files(folder: Path) -> list[Path]:
    """List the files that the index names, else model.safetensors, else all: some folders hold the weights in a second form."""
    if (values := read_object(folder / INDEX, ModelError)) is not None:
        weight_map = Fields(values, f"{folder / INDEX}: ", ModelError).inner("weight_map")
        names = sorted({weight_map.text(name) for name in weight_map.values})
        if wrong := [n for n in names if not re.fullmatch(r"[\w.-]+\.safetensors", n) or not (folder / n).is_file()]:
            raise ModelError(f"{folder / INDEX}: names the file {shown(wrong[0])}, which is not in the folder.")
        return [folder / name for name in names]
    single = folder / "model.safetensors"
    files = [single] if single.is_file() else sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder}: no .safetensors file is in it.")
    return files


def hub_name(name: str) -> str:  # a tensor's name in GGUF -> in safetensors
    if name in NAMES:
        return NAMES[name]
    if not name.startswith("blk."):
        return name
    _, layer, part, kind = name.split(".")
    return f"model.layers.{layer}.{LAYER_NAMES[part]}.{kind}"
