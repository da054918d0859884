"""Record what torch's automatic differentiation says of the small models in gradient_models.py: loss and every gradient.

    python record_gradients.py [OUT.npz]

Needs torch (CPU) and transformers, which the tests never import; no minillm code runs here. The models are transformers' own
Llama, Qwen2 and Qwen3, in float32. Llama's Q and K rows go from GGUF's order (RoPE on neighbours) to transformers' (by halves),
and their gradients back.
"""

import pathlib
import sys

import gradient_models
import numpy as np
import torch
import transformers

CLASSES = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
}
NAMES = {
    "token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_output": "self_attn.o_proj",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip


def transformers_name(name):  # blk.0.attn_q.weight -> model.layers.0.self_attn.q_proj.weight
    *layer, part, kind = name.split(".")
    return ".".join([f"model.layers.{layer[1]}" if layer else "", NAMES[part], kind]).lstrip(".")


def by_halves(rows, d_head):  # rows of all heads, neighbours paired -> i and i + d_head/2 paired
    return rows.reshape(-1, d_head // 2, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def by_neighbours(rows, d_head):
    return rows.reshape(-1, 2, d_head // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def record(case):
    c = gradient_models.shape(case)
    config_class, model_class = CLASSES[case.split("_")[0]]
    config = config_class(
        vocab_size=c["vocab_size"],
        hidden_size=c["d_model"],
        intermediate_size=c["d_ff"],
        num_hidden_layers=c["n_layers"],
        num_attention_heads=c["n_heads"],
        num_key_value_heads=c["n_kv_heads"],
        head_dim=c["d_head"],
        max_position_embeddings=c["context_length"],
        rms_norm_eps=c["norm_eps"],
        tie_word_embeddings=c["tied"],
        rope_parameters={"rope_theta": c["rope_base"], "rope_type": "default"},
        attn_implementation="eager",
    )
    model = model_class(config).float()
    turned = lambda name: c["rope_interleaved"] and ("attn_q." in name or "attn_k." in name)  # noqa: E731
    state = {}
    for name, array in gradient_models.weights(case).items():
        array = by_halves(array, c["d_head"]) if turned(name) else array
        state[transformers_name(name)] = torch.from_numpy(np.ascontiguousarray(array))
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= ({"lm_head.weight"} if c["tied"] else set()), (missing, unexpected)
    model.tie_weights()
    tokens, targets = (torch.from_numpy(a) for a in gradient_models.batch(case))
    logits = model(input_ids=tokens, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
    loss.backward()
    found = dict(model.named_parameters())
    recorded = {f"{case}/loss": np.float32(loss.item())}
    for name in gradient_models.weights(case):
        gradient = found[transformers_name(name)].grad.numpy()
        recorded[f"{case}/{name}"] = by_neighbours(gradient, c["d_head"]) if turned(name) else gradient
    return recorded


if __name__ == "__main__":
    here = pathlib.Path(__file__).parent
    out = sys.argv[1] if len(sys.argv) > 1 else here / "gradients.npz"
    versions = {"versions": np.array([f"torch {torch.__version__}", f"transformers {transformers.__version__}"])}
    np.savez_compressed(out, **versions, **{k: v for case in gradient_models.CASES for k, v in record(case).items()})
