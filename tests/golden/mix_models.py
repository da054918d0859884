"""Models without a use but to be quantized: every matrix of an architecture, two rows high, for what chooses its type.

What llama.cpp's quantizer asks of a model are its metadata and each tensor's name and width. So eighty layers fit into a small
file, and the table of types can be held to every rule: number of layers, query heads to a key and value head, experts, widths.
Written by the gguf package: the recorder uses no code of minillm.
"""

import dataclasses

import gguf
import numpy as np

ROWS = 2
MIXES = {  # our name of a mix: llama.cpp's number of it
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q2_k": 10, "q3_k_s": 11, "q3_k_m": 12,
    "q3_k_l": 13, "q4_k_s": 14, "q4_k_m": 15, "q5_k_s": 16, "q5_k_m": 17, "q6_k": 18, "iq4_nl": 25, "bf16": 32, "mxfp4": 38,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Spec:
    """What the rules ask. width, ffn: columns of the matrices that read the residual stream, and of ffn_down."""

    architecture: str = "llama"
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    width: int = 256
    ffn: int = 512
    tied: bool = True
    experts: int = 0
    imatrix: bool = False


SPECS = {
    "plain": Spec(),
    "untied": Spec(layers=3, tied=False),
    "8 layers": Spec(layers=8),
    "16 layers, imatrix": Spec(layers=16, imatrix=True),
    "30 layers, as SmolLM2": Spec(layers=30, heads=9, kv_heads=3, width=576, ffn=1536),
    "32 layers, four heads share": Spec(layers=32, heads=8, kv_heads=2, tied=False),
    "35 layers, imatrix": Spec(layers=35, tied=False, imatrix=True),
    "80 layers: a 70B": Spec(layers=80, heads=8, kv_heads=1, tied=False),
    "80 layers: a 65B": Spec(layers=80, heads=4, kv_heads=4, tied=False),
    "8 experts": Spec(layers=16, heads=8, kv_heads=2, tied=False, experts=8),
    "4 experts": Spec(layers=16, heads=8, kv_heads=2, tied=False, experts=4),
    "rows of 288": Spec(width=288, ffn=320, tied=False),
    "rows of 288, tied": Spec(width=288, ffn=320),
    "rows of 48": Spec(width=48, ffn=80, tied=False),
    "qwen2": Spec("qwen2", layers=28, heads=14, kv_heads=2, width=896, ffn=4864),
    "qwen2, 80 layers": Spec("qwen2", layers=80, heads=4, kv_heads=4, tied=False),
    "qwen3": Spec("qwen3", layers=28, heads=16, kv_heads=8, tied=True),
}


def shapes(spec):  # -> {name: (rows, columns) or (experts, rows, columns) or (columns,)}, in llama.cpp's order
    found = {} if spec.tied else {"output.weight": (ROWS, spec.width)}
    found |= {"output_norm.weight": (spec.width,), "token_embd.weight": (ROWS, spec.width)}
    for i in range(spec.layers):
        layer = {"attn_norm.weight": (spec.width,), "ffn_norm.weight": (spec.width,)}
        layer |= {f"attn_{matrix}.weight": (ROWS, spec.width) for matrix in ("q", "k", "v", "output")}
        if spec.experts:
            layer["ffn_gate_inp.weight"] = (spec.experts, spec.width)
            layer |= {f"ffn_{m}_exps.weight": (spec.experts, ROWS, spec.width) for m in ("gate", "up")}
            layer["ffn_down_exps.weight"] = (spec.experts, ROWS, spec.ffn)
        else:
            layer |= {f"ffn_{m}.weight": (ROWS, spec.width) for m in ("gate", "up")} | {"ffn_down.weight": (ROWS, spec.ffn)}
        if spec.architecture == "qwen2":
            layer |= {f"attn_{matrix}.bias": (ROWS,) for matrix in ("q", "k", "v")}
        if spec.architecture == "qwen3":
            layer |= {f"attn_{matrix}_norm.weight": (16,) for matrix in ("q", "k")}
        found |= {f"blk.{i}.{name}": shape for name, shape in layer.items()}
    return found


def write(spec, path):
    """Write the file, matrices in F16 and the rest in F32."""
    writer = gguf.GGUFWriter(path, spec.architecture)
    writer.add_context_length(64)
    writer.add_embedding_length(spec.width)
    writer.add_block_count(spec.layers)
    writer.add_feed_forward_length(spec.ffn)
    writer.add_head_count(spec.heads)
    writer.add_head_count_kv(spec.kv_heads)
    writer.add_key_length(16)
    writer.add_value_length(16)
    writer.add_rope_dimension_count(16)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(ROWS)
    if spec.experts:
        writer.add_expert_count(spec.experts)
        writer.add_expert_used_count(2)
    rng = np.random.default_rng(1)
    for name, shape in shapes(spec).items():
        small = len(shape) == 1 or "gate_inp" in name
        writer.add_tensor(name, rng.normal(size=shape).astype(np.float32 if small else np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def runs(names):  # ["Q4_K", "Q4_K", "Q6_K"] -> "2 Q4_K, 1 Q6_K": the types of one matrix over the layers, in one line
    found = []
    for name in names:
        if not found or found[-1][1] != name:
            found.append([0, name])
        found[-1][0] += 1
    return ", ".join(f"{count} {name}" for count, name in found)


def by_role(types):  # {name of a tensor: its type} -> {role: types over the layers}; vectors, which stay F32, are left out
    roles = {}
    for name, type_ in types.items():
        if name.endswith(("norm.weight", ".bias")):
            assert type_ == "F32", f"{name}: {type_}"
            continue
        roles.setdefault(name.split(".", 2)[2] if name.startswith("blk.") else name, []).append((layer(name), type_))
    return {role: runs([type_ for _, type_ in sorted(found)]) for role, found in sorted(roles.items())}


def layer(name):
    return int(name.split(".")[1]) if name.startswith("blk.") else 0
