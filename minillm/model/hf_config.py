"""config.json of a hub's folder: the shape of a model, key by key.

What would make the model compute something else than we do is refused by name: a window, a bias, an activation, a kind of
scaling, weights in a quantized form. Numbers have a range, and nothing is allocated from them: the tensors' shapes come first.
Keys and their defaults are those of transformers (configuration_llama.py and its like).
"""

from pathlib import Path
from typing import Any

from minillm.errors import ModelError
from minillm.formats.expect import Fields, from_file, shown
from minillm.formats.json_file import read_object
from minillm.model.config import ModelConfig
from minillm.model.rope_files import SCALES, scaling_from_config

ARCHITECTURES = {  # class name in config.json: bias on q, k, v; norm on q and k
    "LlamaForCausalLM": (False, False),
    "MistralForCausalLM": (False, False),
    "Qwen2ForCausalLM": (True, False),
    "Qwen3ForCausalLM": (False, True),
}
PLAIN = {  # key: the one value that we compute; absent and null count as that
    "hidden_act": "silu",
    "mlp_bias": False,
    "partial_rotary_factor": 1.0,
}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file; ModelError where there is none."""
    if (values := read_object(path, ModelError)) is None:
        hint = "A .gguf file is loaded by its own path."
        raise ModelError(f"{path.parent}: a model's folder must hold {path.name}, this one does not. {hint}")
    return values


def folder_config(folder: Path) -> ModelConfig:
    """Read config.json. ModelError names the key that is missing, of another type, out of range or not supported."""
    c = Fields(read_json(folder / "config.json"), f"{folder / 'config.json'}: ", ModelError)
    architecture = (c.texts("architectures", []) or ["none"])[0]
    if architecture not in ARCHITECTURES:
        found = shown(architecture)
        raise ModelError(f"{folder}: architecture {found} is not supported; these are: {', '.join(ARCHITECTURES)}.")
    qkv_bias, qk_norm = ARCHITECTURES[architecture]
    for key, plain in PLAIN.items():
        c.one_of(key, (plain,), None)
    if not qkv_bias and c.flag("attention_bias", False):  # of Qwen2 it says nothing, the class has its biases
        c.fail("attention_bias", "false, as a bias on the output of attention is not supported", "true")
    if isinstance(quantized := c.values.get("quantization_config"), dict):
        method = shown(quantized.get("quant_method"))
        raise ModelError(f"{folder}: weights quantized by {method} are not supported in a folder; GGUF has quantized types.")
    context = c.whole("max_position_embeddings", low=1)
    check_window(c, architecture, context)
    rope = c.inner("rope_scaling", None) or c.inner("rope_parameters", {})
    d_model, n_heads = c.whole("hidden_size", low=1), c.whole("num_attention_heads", low=1)
    with from_file(folder / "config.json"):
        return ModelConfig(
            n_layers=c.whole("num_hidden_layers"),
            d_model=d_model,
            n_heads=n_heads,
            n_kv_heads=c.whole("num_key_value_heads", n_heads),
            d_head=c.whole("head_dim", d_model // n_heads),
            d_ff=c.whole("intermediate_size"),
            vocab_size=c.whole("vocab_size"),
            context_length=context,
            norm_eps=c.number("rms_norm_eps", low=0, high=SCALES[1]),
            rope_base=rope.number("rope_theta", c.number("rope_theta", 10000.0, *SCALES), *SCALES),
            rope_interleaved=False,
            rope_scaling=scaling_from_config(rope, c.whole("original_max_position_embeddings", context, low=1)),
            tied=c.flag("tie_word_embeddings", False),
            qkv_bias=qkv_bias,
            qk_norm=qk_norm,
            name=folder.name,
        )


def check_window(c: Fields, architecture: str, context: int) -> None:
    """Check that a sliding window, which is not supported, is as wide as the context."""
    window = c.whole("sliding_window", None)
    if window and window < context and c.flag("use_sliding_window", architecture.startswith("Mistral")):
        c.fail("sliding_window", "none, as a window is not supported", f"{window:,} tokens")
    if other := set(c.texts("layer_types", [])) - {"full_attention"}:
        c.fail("layer_types", "full_attention alone", shown(min(other)))
