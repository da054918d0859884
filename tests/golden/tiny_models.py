"""Tiny random models in GGUF files, one for every switch of the architecture, so that tests need no download.

Each spec names what is unlike the plain Llama. Its weights are the raw stream of a PCG64 bit generator (which, unlike NumPy's
distributions, never changes between versions) turned into small floats, large enough that every switch moves the logits.
`state_dict` gives them under the names that transformers uses, for the recorder; `write_tiny` gives the same numbers as a
GGUF file, with what llama.cpp's converter does to them: Llama's Q and K rows are permuted from RoPE in halves to RoPE in pairs.
Sizes are small and awkward on purpose. The tokenizer is a byte-level BPE with a few merges and a ChatML template, so the whole
command line runs on any of them.
"""

import dataclasses
import zlib

import gguf
import numpy as np

MERGES = ["t h", "Ġ t", "h e", "i n", "e r", "a n", "Ġ a", "r e", "o n", "Ġt he", "Ġ s", "Ġ w", "Ġ o", "Ġ Ġ", "in g"]
MERGES += ["Ġa n", "Ġan d"]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CONTEXT = 256


@dataclasses.dataclass(frozen=True)
class Spec:
    """A model's shape; the defaults are the plain one. `quantized`: tensor name ending -> GGML type, the rest stays F32."""

    architecture: str = "llama"
    layers: int = 2
    hidden: int = 48
    heads: int = 4
    kv_heads: int = 2
    d_head: int = 12
    ffn: int = 40
    tied: bool = True
    rope_base: float = 10000.0
    rope_scaling: dict | None = None  # as in transformers' configuration
    eps: float = 1e-5
    quantized: tuple = ()
    seed: int = 1  # chosen so that no greedy token ends the text and none is a near tie


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3["original_max_position_embeddings"] = 64  # so short that 33 tokens show it
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
YARN_OTHER = YARN | {"factor": 2.5, "beta_fast": 2.0, "beta_slow": 0.1, "attention_factor": 1.4}
Q4, Q8 = gguf.GGMLQuantizationType.Q4_0, gguf.GGMLQuantizationType.Q8_0
MIXED = (("ffn_gate", Q4), ("ffn_up", Q4), ("attn_q", Q4), ("attn_k", Q4), ("attn_v", Q8), ("token_embd", Q8), ("ffn_down", Q8))

SPECS = {
    "llama": Spec(),
    "llama_untied": Spec(tied=False, layers=3),
    "llama_mha": Spec(kv_heads=4, seed=2),  # GQA ratio 1
    "llama_gqa3": Spec(heads=6, kv_heads=2, d_head=8, seed=2),
    "llama_mqa": Spec(hidden=36, heads=4, kv_heads=1, d_head=10, eps=1e-2),  # heads narrower in sum than wide: 40 and 36
    "llama_rope_base": Spec(rope_base=500.0),
    "llama3_rope": Spec(d_head=16, rope_scaling=LLAMA3, tied=False),
    "linear_rope": Spec(rope_scaling={"rope_type": "linear", "factor": 2.5}),
    "yarn_rope": Spec(d_head=16, rope_base=500.0, rope_scaling=YARN),
    "yarn_other": Spec("qwen3", hidden=40, d_head=16, rope_base=500.0, rope_scaling=YARN_OTHER, tied=False, seed=2),
    "qwen2": Spec("qwen2", hidden=40, heads=4, kv_heads=2, d_head=10, rope_base=1e6, eps=1e-6),
    "qwen3": Spec("qwen3", hidden=40, heads=5, kv_heads=1, d_head=16, rope_base=1e6, eps=1e-6, tied=False, seed=2),
    "mixed": Spec(hidden=64, heads=4, kv_heads=2, d_head=16, ffn=96, quantized=MIXED, seed=2),
}


def tokens():
    """The vocabulary: specials, the 256 bytes in GPT-2's order and letters, one token per merge."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    return SPECIAL + letters + [merge.replace(" ", "") for merge in MERGES]


def state_dict(name):  # -> {transformers' name: float32 array}
    """All weights, as transformers wants them. Quantized ones have been through the quantization, so both sides are equal."""
    spec = SPECS[name]
    stream = np.random.PCG64(zlib.crc32(name.encode()) + spec.seed)

    def uniform(*shape, around=0.0, within=1.0):
        raw = stream.random_raw(int(np.prod(shape))) >> np.uint64(40)  # 24 bits: exact in float32
        return (around + within * (raw.astype(np.float64) / 2**23 - 1)).astype(np.float32).reshape(shape)

    def matrix(rows, columns, gain=2.0):
        return uniform(rows, columns, within=gain * (3 / columns) ** 0.5)  # gain is the standard deviation out per one in

    wide, narrow = spec.heads * spec.d_head, spec.kv_heads * spec.d_head
    state = {"model.embed_tokens.weight": uniform(len(tokens()), spec.hidden)}
    for i in range(spec.layers):
        layer = f"model.layers.{i}."
        state[layer + "input_layernorm.weight"] = uniform(spec.hidden, around=1, within=0.4)
        state[layer + "post_attention_layernorm.weight"] = uniform(spec.hidden, around=1, within=0.4)
        for part, rows, columns in [("q", wide, spec.hidden), ("k", narrow, spec.hidden), ("v", narrow, spec.hidden)]:
            state[f"{layer}self_attn.{part}_proj.weight"] = matrix(rows, columns)
            if spec.architecture == "qwen2":
                state[f"{layer}self_attn.{part}_proj.bias"] = uniform(rows)
        state[layer + "self_attn.o_proj.weight"] = matrix(spec.hidden, wide)
        if spec.architecture == "qwen3":
            state[layer + "self_attn.q_norm.weight"] = uniform(spec.d_head, around=1, within=0.6)
            state[layer + "self_attn.k_norm.weight"] = uniform(spec.d_head, around=1, within=0.6)
        state[layer + "mlp.gate_proj.weight"] = matrix(spec.ffn, spec.hidden)
        state[layer + "mlp.up_proj.weight"] = matrix(spec.ffn, spec.hidden)
        state[layer + "mlp.down_proj.weight"] = matrix(spec.hidden, spec.ffn, gain=1.0)
    state["model.norm.weight"] = uniform(spec.hidden, around=1, within=0.4)
    if not spec.tied:
        state["lm_head.weight"] = uniform(len(tokens()), spec.hidden)
    for key in state:
        if kind := _kind(spec, _gguf_name(key)):
            state[key] = gguf.quants.dequantize(gguf.quants.quantize(state[key], kind), kind)
    return state


def write_tiny(name, path):
    """Write the model as a GGUF file, version 3."""
    spec = SPECS[name]
    writer = gguf.GGUFWriter(str(path), spec.architecture)
    writer.add_name(f"tiny {name}")
    writer.add_block_count(spec.layers)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(spec.hidden)
    writer.add_feed_forward_length(spec.ffn)
    writer.add_head_count(spec.heads)
    writer.add_head_count_kv(spec.kv_heads)
    writer.add_layer_norm_rms_eps(spec.eps)
    writer.add_rope_freq_base(spec.rope_base)
    if spec.architecture == "llama":
        writer.add_vocab_size(len(tokens()))
        writer.add_rope_dimension_count(spec.d_head)
    if spec.d_head * spec.heads != spec.hidden:
        writer.add_key_length(spec.d_head)
        writer.add_value_length(spec.d_head)
    scaling = spec.rope_scaling or {}
    if scaling.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling["factor"])
    if scaling.get("rope_type") == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(scaling["factor"])
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
        if "attention_factor" in scaling:  # of which llama.cpp makes 0.1 ln factor + 1 by itself
            writer.add_rope_scaling_attn_factors(scaling["attention_factor"] / (0.1 * np.log(scaling["factor"]) + 1))
            writer.add_rope_scaling_yarn_beta_fast(scaling["beta_fast"])
            writer.add_rope_scaling_yarn_beta_slow(scaling["beta_slow"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens())
    normal, control = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL
    writer.add_token_types([control if token in SPECIAL else normal for token in tokens()])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    if scaling.get("rope_type") == "llama3":  # llama.cpp keeps this scaling as a tensor of divisors, computed at conversion
        writer.add_tensor("rope_freqs.weight", llama3_divisors(spec))
    for key, array in state_dict(name).items():
        target = _gguf_name(key)
        if spec.architecture == "llama" and ("q_proj" in key or "k_proj" in key):
            array = pairs_from_halves(array, spec.kv_heads if "k_proj" in key else spec.heads)
        kind = _kind(spec, target)
        writer.add_tensor(target, gguf.quants.quantize(array, kind) if kind else np.ascontiguousarray(array), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def pairs_from_halves(rows, heads):  # (heads · d_head, hidden) -> same
    """Reorder each head's rows from 0..d/2, d/2..d (a RoPE pair is i and i + d/2) to 0, d/2, 1, d/2 + 1, ... (i and i + 1)."""
    return rows.reshape(heads, 2, -1, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)


def llama3_divisors(spec):  # -> (d_head / 2,) float32
    """What each RoPE frequency is divided by, one pair at a time. Llama 3.1's rule."""
    s, divisors = spec.rope_scaling, []
    for pair in range(spec.d_head // 2):
        wavelength = 2 * np.pi * spec.rope_base ** (2 * pair / spec.d_head)
        turns = s["original_max_position_embeddings"] / wavelength
        if turns > s["high_freq_factor"]:
            divisors.append(1.0)
        elif turns < s["low_freq_factor"]:
            divisors.append(s["factor"])
        else:
            smooth = (turns - s["low_freq_factor"]) / (s["high_freq_factor"] - s["low_freq_factor"])
            divisors.append(1 / ((1 - smooth) / s["factor"] + smooth))
    return np.array(divisors, dtype=np.float32)


RENAMED = {f"self_attn.{part}_proj": f"attn_{part}" for part in "qkv"} | {"self_attn.o_proj": "attn_output"}
RENAMED |= {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
RENAMED |= {"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
RENAMED |= {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "model.norm": "output_norm"}
RENAMED |= {"model.layers": "blk", "model.embed_tokens": "token_embd", "lm_head": "output"}


def _gguf_name(key):
    for theirs, ours in RENAMED.items():
        key = key.replace(theirs, ours)
    return key


def _kind(spec, name):
    return next((kind for part, kind in spec.quantized if f"{part}.weight" in name), None)
