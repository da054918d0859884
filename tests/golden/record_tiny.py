"""Record what transformers says about the tiny random models: logits and greedy tokens for every switch of the architecture.

    python record_tiny.py [OUT.json]

Needs torch (CPU), transformers and gguf, which the tests never import; no minillm code runs here. transformers gets the
weights as a state dict and the shape as its own configuration, so it never sees the GGUF file; for the plain architectures
it then loads that file as well, with its own GGUF reader, and must say the same: an independent check that file and state dict
are one model.
"""

import importlib.metadata
import json
import pathlib
import sys
import tempfile

import numpy as np
import tiny_models
import torch
import transformers

LENGTHS = (1, 7, 33)
NEW_TOKENS = 12
CLASSES = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
}
# transformers 5.23 drops from a GGUF file what the others depend on: RoPE scaling, and heads that are not hidden / heads wide
READ_BY_TRANSFORMERS = ["llama", "llama_untied", "llama_mha", "llama_gqa3", "llama_rope_base", "qwen2", "mixed"]


def build(name):
    spec = tiny_models.SPECS[name]
    config_class, model_class = CLASSES[spec.architecture]
    config = config_class(
        vocab_size=len(tiny_models.tokens()),
        hidden_size=spec.hidden,
        intermediate_size=spec.ffn,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.kv_heads,
        head_dim=spec.d_head,
        max_position_embeddings=tiny_models.CONTEXT,
        rms_norm_eps=spec.eps,
        tie_word_embeddings=spec.tied,
        rope_parameters={"rope_theta": spec.rope_base, **(spec.rope_scaling or {"rope_type": "default"})},
        attn_implementation="eager",
    )
    model = model_class(config).eval()
    state = {key: torch.from_numpy(array) for key, array in tiny_models.state_dict(name).items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= ({"lm_head.weight"} if spec.tied else set()), (missing, unexpected)
    model.tie_weights()
    return model


def inputs(name):
    """Token ids without specials, one sequence per length."""
    stream, size = np.random.PCG64(len(name)), len(tiny_models.tokens())
    return [(3 + stream.random_raw(n) % np.uint64(size - 3)).astype(int).tolist() for n in LENGTHS]


def logits_of(model, ids):
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0].double().numpy()


def record(name):
    model, sequences = build(name), []
    for ids in inputs(name):
        logits = logits_of(model, ids)
        positions = sorted({0, len(ids) // 2, len(ids) - 1})
        greedy, margins = [], []
        for _ in range(NEW_TOKENS):
            last = logits_of(model, ids + greedy)[-1]  # the whole sequence again: no cache to trust
            second, best = np.sort(last)[-2:]
            greedy.append(int(last.argmax()))
            margins.append(best - second)
        assert min(margins) > 1e-3 and not {0, 2} & set(greedy), f"{name}: choose another seed ({min(margins)}, {greedy})"
        rows = [[float(f"{x:.6g}") for x in logits[p]] for p in positions]
        sequences.append({"ids": ids, "positions": positions, "logits": rows, "greedy": greedy})
    if name in READ_BY_TRANSFORMERS:
        check_against_own_reader(name, inputs(name)[-1], logits)
    return sequences


def check_against_own_reader(name, ids, expected):
    with tempfile.TemporaryDirectory() as folder:
        tiny_models.write_tiny(name, pathlib.Path(folder, "tiny.gguf"))
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file="tiny.gguf", dtype=torch.float32).eval()
    error = np.abs(logits_of(model, ids) - expected).max()
    assert error < 1e-4 * np.abs(expected).max(), f"{name}: the GGUF file and the state dict differ by {error}"
    print(f"{name}: transformers' GGUF reader agrees within {error:.1e}", file=sys.stderr)


def main(out=None):
    out = pathlib.Path(out or pathlib.Path(__file__).with_name("tiny.json"))
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "gguf")}
    recorded = {name: record(name) for name in tiny_models.SPECS}
    lines = ",\n".join(f"{json.dumps(name)}:{json.dumps(r, separators=(',', ':'))}" for name, r in recorded.items())
    out.write_text(f'{{"versions":{json.dumps(versions)},"models":{{\n{lines}\n}}}}\n')


if __name__ == "__main__":
    main(*sys.argv[1:])
