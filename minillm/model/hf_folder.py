"""A model as hubs keep it: a folder with config.json, tokenizer.json and safetensors.

It holds the same numbers as a GGUF file under other names, so loading it is translation: names of tensors, keys of the
configuration, and the tokenizer into the metadata that GGUF would have. One difference matters: these files pair the
components of RoPE by halves, for every architecture.
"""

import json

from minillm.errors import ModelError, TokenizerError
from minillm.formats.blocks import BLOCK_TYPES
from minillm.formats.safetensors import open_safetensors
from minillm.model.config import ModelConfig, RopeScaling
from minillm.model.tokenizer import Tokenizer
from minillm.model.transformer import Transformer
from minillm.model.weights import StoredTensor, load_weights

ARCHITECTURES = {  # class name in config.json: bias on q, k, v; norm on q and k
    "LlamaForCausalLM": (False, False),
    "MistralForCausalLM": (False, False),
    "Qwen2ForCausalLM": (True, False),
    "Qwen3ForCausalLM": (False, True),
}

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
PRETOKENIZERS = {  # a mark of the pattern in tokenizer.json: GGUF's name for it; the first that fits
    "\\p{N}{1,3}": "llama-bpe",
    "(?i:'s": "qwen2",
    '"Digits"': "smollm",
    '"ByteLevel"': "gpt-2",
}


def load_folder(folder, ops):  # path, backend -> (Transformer, Tokenizer)
    """Load a model from a folder."""
    config = folder_config(folder)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder}: no .safetensors file is in it.")
    tensors = {name: tensor for file in files for name, tensor in open_safetensors(file).items()}

    def tensor(name):
        found = tensors.get(hub_name(name))
        return found and StoredTensor(found.raw, BLOCK_TYPES[found.dtype], found.shape)

    return Transformer(config, load_weights(config, tensor, ops), ops), Tokenizer.from_gguf(tokenizer_metadata(folder))


def hub_name(name):  # a tensor's name in GGUF -> in safetensors
    if name in NAMES:
        return NAMES[name]
    if not name.startswith("blk."):
        return name
    _, layer, part, kind = name.split(".")
    return f"model.layers.{layer}.{LAYER_NAMES[part]}.{kind}"


def read_json(path):
    """A JSON object from a file; ModelError where there is none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        hint = "A .gguf file is loaded by its own path."
        raise ModelError(f"{path.parent}: a model's folder must hold {path.name}, this one does not. {hint}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read as JSON: {error}.") from None
    if not isinstance(values, dict):
        raise ModelError(f"{path}: must hold a JSON object, found {type(values).__name__}.")
    return values


def folder_config(folder):  # path -> ModelConfig
    """Read config.json."""
    c = read_json(folder / "config.json")
    architecture = (c.get("architectures") or ["none"])[0]
    if architecture not in ARCHITECTURES:
        raise ModelError(f"{folder}: architecture {architecture!r} is not supported; these are: {', '.join(ARCHITECTURES)}.")
    if c.get("sliding_window") and c.get("use_sliding_window", architecture.startswith("Mistral")):
        raise ModelError(f"{folder}: a sliding window of {c['sliding_window']:,} tokens is not supported.")
    if c.get("hidden_act", "silu") != "silu" or c.get("mlp_bias"):
        raise ModelError(f"{folder}: only the SiLU activation without bias is supported, found {c.get('hidden_act')!r}.")
    if c.get("attention_bias"):
        raise ModelError(f"{folder}: a bias on the output of attention is not supported.")
    qkv_bias, qk_norm = ARCHITECTURES[architecture]
    rope = c.get("rope_scaling") or c.get("rope_parameters") or {}
    try:
        return ModelConfig(
            n_layers=c["num_hidden_layers"],
            d_model=c["hidden_size"],
            n_heads=c["num_attention_heads"],
            n_kv_heads=c.get("num_key_value_heads") or c["num_attention_heads"],
            d_head=c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"],
            d_ff=c["intermediate_size"],
            vocab_size=c["vocab_size"],
            context_length=c["max_position_embeddings"],
            norm_eps=c["rms_norm_eps"],
            rope_base=float(rope.get("rope_theta") or c.get("rope_theta", 10000.0)),
            rope_interleaved=False,
            rope_scaling=rope_scaling(rope),
            tied=bool(c.get("tie_word_embeddings", False)),
            qkv_bias=qkv_bias,
            qk_norm=qk_norm,
            name=folder.name,
        )
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise ModelError(f"{folder}/config.json: a number is missing or is none: {error}.") from None


def rope_scaling(rope):  # dict -> RopeScaling or None
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling("linear", float(rope["factor"]))
    if kind == "llama3":
        names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        return RopeScaling("llama3", *(rope[name] for name in names))
    raise ModelError(f"RoPE scaling {kind!r} is not supported; linear and llama3 are.")


def tokenizer_metadata(folder):  # path -> what GGUF's metadata would say
    """Translate tokenizer.json (byte-level BPE) and tokenizer_config.json."""
    tokenizer, options = read_json(folder / "tokenizer.json"), read_json(folder / "tokenizer_config.json")
    model = tokenizer.get("model") or {}
    described = json.dumps(tokenizer.get("pre_tokenizer")).replace("\\\\", "\\")  # JSON doubles the backslashes of a pattern
    pre = next((name for mark, name in PRETOKENIZERS.items() if mark in described), None)
    if model.get("type") != "BPE" or model.get("byte_fallback") or pre is None:
        kind = model.get("type")
        what = f"only byte-level BPE is read from tokenizer.json, found {kind!r}"
        raise TokenizerError(f"{folder}: {what}. Convert the model to GGUF.")
    ids = dict(model["vocab"])
    added = tokenizer.get("added_tokens") or []
    ids.update((token["content"], token["id"]) for token in added)
    tokens = [f"[unused {i}]" for i in range(max(ids.values()) + 1)]
    types = [5] * len(tokens)  # unused
    for token, i in ids.items():
        tokens[i], types[i] = token, 1  # normal
    for token in added:
        types[token["id"]] = 3 if token.get("special") else 4  # control, or a user's own
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.add_bos_token": bool(options.get("add_bos_token", False)),
    }
    for name in ("bos", "eos"):
        token = options.get(f"{name}_token")
        token = token.get("content") if isinstance(token, dict) else token
        if token in ids:
            metadata[f"tokenizer.ggml.{name}_token_id"] = ids[token]
    template = folder / "chat_template.jinja"
    chat = template.read_text(encoding="utf-8") if template.exists() else options.get("chat_template")
    if isinstance(chat, str):
        metadata["tokenizer.chat_template"] = chat
    return metadata
