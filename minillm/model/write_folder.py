"""From a GGUF file to a folder as hubs keep it, in bfloat16: the inverse of hf_folder.py, for programs that read no GGUF.

    convert(path, folder)   config.json   model.safetensors   and, where wanted, tokenizer.json   tokenizer_config.json

Weights are unpacked and rounded to 8 bits of mantissa, to the nearest and ties to even; and a llama's Q and K get the row order
of hubs, where RoPE turns component i with i + d/2 instead of its neighbour.
"""

import json
from pathlib import Path

import numpy as np

from minillm.errors import ModelError, TokenizerError
from minillm.files import replacing, write_text
from minillm.formats.gguf import open_gguf
from minillm.formats.safetensors import encoded
from minillm.model.hf_config import ARCHITECTURES
from minillm.model.hf_folder import hub_name
from minillm.model.hf_pipeline import STRUCTURES
from minillm.model.load import load_parameters
from minillm.model.rope_files import scaling_to_config
from minillm.model.tokenizer.metadata import arguments_from_gguf
from minillm.model.tokenizer.vocabulary import CONTROL, UNUSED, USER_DEFINED

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def convert(path, folder, tokenizer=True):  # a .gguf file, path, bool -> Path of the folder
    """Write the model of a GGUF file. ModelError, TokenizerError where a folder cannot say what the file does."""
    folder = Path(folder)
    config, parameters = load_parameters(path)
    texts = {"config.json": config_json(config)}
    if tokenizer:
        with open_gguf(path) as gguf:
            texts |= tokenizer_files(gguf.metadata)
    tensors = {hub_name(name): bfloat16(by_halves(name, array, config)) for name, array in parameters.items()}
    with replacing(folder / "model.safetensors", ModelError) as file:
        for part in encoded(tensors, {"format": "pt"}):
            file.write(part)
    for name, values in texts.items():
        write_text(folder / name, json.dumps(values, indent=1, ensure_ascii=False), ModelError)
    return folder


def bfloat16(array):  # float32 -> uint16: the upper halves, to the nearest
    """Round to bfloat16."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((bits + (0x7FFF + (bits >> 16 & 1))) >> 16).astype(np.uint16)


def by_halves(name, array, config):  # -> the rows of Q and K in the order of hubs
    """Reorder each head's rows from neighbours (0, d/2, 1, d/2 + 1, …) to halves (0, 1, 2, …)."""
    if not config.rope_interleaved or name.split(".")[-2] not in ("attn_q", "attn_k"):
        return array
    return array.reshape(-1, config.d_head // 2, 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


def config_json(config):  # ModelConfig -> {key: value}
    """Say the shape in the keys of transformers."""
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
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_base,
        "rope_scaling": scaling_to_config(config.rope_scaling),
        "tie_word_embeddings": config.tied,
        "hidden_act": "silu",
        "torch_dtype": "bfloat16",
    }


# --- the tokenizer --------------------------------------------------------------------------------------------------


def tokenizer_files(metadata):  # GGUF's metadata -> {file: values}
    """Say the tokenizer as transformers reads it. TokenizerError where it is not byte-level BPE."""
    known = arguments_from_gguf(metadata)
    if "merges" not in known:
        raise TokenizerError("only byte-level BPE is written to tokenizer.json, this file's tokenizer is SentencePiece's.")
    tokens, types = known["tokens"], known["token_types"] or [1] * len(known["tokens"])
    structure = next((steps for steps, name in STRUCTURES.items() if name == known["pre"]), None)
    if structure is None:
        raise TokenizerError(f"the pre-tokenizer {known['pre']!r} has no form for tokenizer.json here.")
    apart = {i for i, kind in enumerate(types) if kind in (CONTROL, USER_DEFINED)}
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    bos, eos = (None if (i := known[key]) is None else tokens[i] for key in ("bos_id", "eos_id"))
    values = {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": tokens[i], **plain, "special": types[i] == CONTROL} for i in sorted(apart)],
        "normalizer": {"type": known["normalizer"]} if known["normalizer"] else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [step(*each) for each in structure]},
        "post_processor": begin(bos, known["bos_id"]) if known["add_bos"] and bos else None,
        "decoder": BYTE_LEVEL,
        "model": {
            "type": "BPE",
            "ignore_merges": bool(known["ignore_merges"]),
            "vocab": {t: i for i, (t, kind) in enumerate(zip(tokens, types, strict=True)) if i not in apart and kind != UNUSED},
            "merges": [pair.split(" ") for pair in known["merges"]],
        },
    }
    options = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": eos}
    options |= {"add_bos_token": known["add_bos"]}
    options |= {"chat_template": known["chat_template"], "clean_up_tokenization_spaces": False}
    ends = [i for i in (known["eos_id"], *known["extra_eos_ids"]) if i is not None]
    return {
        "tokenizer.json": values,
        "tokenizer_config.json": {key: value for key, value in options.items() if value is not None},
        "generation_config.json": {"eos_token_id": ends},
    }


def step(kind, what):  # ("Split", pattern), ("Digits", alone), ("ByteLevel", whether it cuts) -> a step of a pre_tokenizer
    if kind == "ByteLevel":
        return BYTE_LEVEL | {"use_regex": what}
    if kind == "Digits":
        return {"type": "Digits", "individual_digits": what}
    return {"type": "Split", "pattern": {"Regex": what}, "behavior": "Isolated", "invert": False}


def begin(text, number):  # -> the post-processor that puts this token in front
    first = {"SpecialToken": {"id": text, "type_id": 0}}
    special = {text: {"id": text, "ids": [number], "tokens": [text]}}
    single, pair = [first, {"Sequence": {"id": "A", "type_id": 0}}], [{"Sequence": {"id": "B", "type_id": 1}}]
    return {"type": "TemplateProcessing", "single": single, "pair": single + pair, "special_tokens": special}
