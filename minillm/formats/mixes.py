"""Mixes: which tensors of a model get more bits than the rest. `q4_k_m` is Q4_K, and Q6_K where an error hurts most.

A model is not quantized evenly. Values and the down projection write into the residual stream, so their errors are seen by all
that follows; the first and the last layers are touchier than those between; the head decides between 50,000 tokens. Where
several query heads share one value head, its matrix is small, and better bits for it cost nearly nothing. llama.cpp measured what
helps and wrote it down in one function; here it is a table. A rule reads "these layers of this matrix get that type", the
first that holds wins, and what no rule names gets the type of the mix. Names end in S, M or L: more and more matrices are spared.

    type of a tensor = the head's rule, else the first rule of its role that holds, else the mix's type;
    and where the type's blocks do not fill its rows, a type with smaller blocks (FALLBACKS), at last F16

Vectors and norms stay as they are: they are small, and added or multiplied once for every token.
Source: llama.cpp, src/llama-quant.cpp, llama_tensor_get_type; of 2026, for the architectures of this engine.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from minillm.errors import GGUFError, did_you_mean
from minillm.formats.blocks import BLOCK_TYPES_BY_ID, BlockType
from minillm.formats.expect import Fields, shown
from minillm.formats.gguf import GGUFFile, TensorInfo

TYPES = {t.name: t for t in BLOCK_TYPES_BY_ID.values()}
ARCHITECTURES = ("llama", "qwen2", "qwen3")  # llama.cpp has other rules for some of the others


class Site(NamedTuple):
    """What a rule may ask: which layer of how many, query heads per key and value head, experts, whether there is an imatrix."""

    layer: int
    layers: int
    group: int
    experts: int
    imatrix: bool


def always(s: Site) -> bool:
    return True


def grouped(s: Site) -> bool:
    """The matrix of values is a quarter of the queries', or less."""
    return s.group >= 4


def outer_and_every_third(s: Site) -> bool:
    """The first and the last eighth of the layers, and one of three between."""
    eighth = s.layers // 8
    return s.layer < eighth or s.layer >= 7 * s.layers // 8 or (s.layer - eighth) % 3 == 2


def first_eighth(s: Site) -> bool:
    return s.layer < s.layers // 8


def first_sixteenth(s: Site) -> bool:
    return s.layer < s.layers // 16


def first_two(s: Site) -> bool:
    return s.layer < 2


def first_four(s: Site) -> bool:
    return s.layer < 4


def first_eighth_without_imatrix(s: Site) -> bool:
    return first_eighth(s) and not s.imatrix


def first_eighth_with_imatrix(s: Site) -> bool:
    """Q4_0 and Q5_0 can go astray there once an imatrix steers them; a minimum helps."""
    return first_eighth(s) and s.imatrix


Rules = dict[str, tuple[tuple[Callable[[Site], bool], str], ...]]  # role: ((which layers, type), …)


@dataclass(frozen=True)
class Mix:
    """type: of every matrix that no rule names. file_type: general.file_type, llama.cpp's number of the mix.

    head: the type of the output matrix, which is the embedding where a file has no other. eight_experts: the type of
    attn_output in a model like Mixtral 8x7B, in place of its rule. even: all matrices alike, the head too.
    """

    type: str
    file_type: int
    rules: Rules = field(default_factory=dict)
    head: str = "Q6_K"
    eight_experts: str | None = None
    even: bool = False


MIXES = {
    "f32": Mix("F32", 0, even=True),
    "f16": Mix("F16", 1, even=True),
    "bf16": Mix("BF16", 32, even=True),
    "q8_0": Mix("Q8_0", 7, head="Q8_0"),
    "q4_0": Mix("Q4_0", 2, {"ffn_down": ((first_eighth_with_imatrix, "Q4_1"),)}),
    "q4_1": Mix("Q4_1", 3),
    "q5_0": Mix("Q5_0", 8, {"ffn_down": ((first_eighth_with_imatrix, "Q5_1"),)}),
    "q5_1": Mix("Q5_1", 9),
    "q2_k": Mix("Q2_K", 10, {
        "attn_v": ((grouped, "Q4_K"), (always, "Q3_K")),
        "attn_output": ((always, "Q3_K"),),
        "ffn_down": ((always, "Q3_K"),),
    }, eight_experts="Q5_K"),
    "q3_k_s": Mix("Q3_K", 11, eight_experts="Q5_K"),
    "q3_k_m": Mix("Q3_K", 12, {
        "attn_v": ((first_two, "Q5_K"), (always, "Q4_K")),
        "attn_output": ((always, "Q4_K"),),
        "ffn_down": ((first_sixteenth, "Q5_K"), (always, "Q4_K")),
    }, eight_experts="Q5_K"),
    "q3_k_l": Mix("Q3_K", 13, {
        "attn_v": ((always, "Q5_K"),),
        "attn_output": ((always, "Q5_K"),),
        "ffn_down": ((always, "Q5_K"),),
    }),
    "q4_k_s": Mix("Q4_K", 14, {
        "attn_v": ((first_four, "Q5_K"),),
        "ffn_down": ((first_eighth, "Q5_K"),),
    }, eight_experts="Q5_K"),
    "q4_k_m": Mix("Q4_K", 15, {
        "attn_v": ((outer_and_every_third, "Q6_K"),),
        "ffn_down": ((outer_and_every_third, "Q6_K"),),
    }, eight_experts="Q5_K"),
    "q5_k_s": Mix("Q5_K", 16),
    "q5_k_m": Mix("Q5_K", 17, {
        "attn_v": ((outer_and_every_third, "Q6_K"),),
        "ffn_down": ((outer_and_every_third, "Q6_K"),),
    }),
    "q6_k": Mix("Q6_K", 18),
    "iq4_nl": Mix("IQ4_NL", 25, {
        "attn_v": ((grouped, "Q5_K"),),
        "ffn_down": ((first_eighth_without_imatrix, "Q5_K"),),
    }, eight_experts="Q5_K"),
    "mxfp4": Mix("MXFP4", 38, even=True),  # llama.cpp means experts alone; this is what its --pure makes
}  # fmt: skip
ALIASES = {"q3_k": "q3_k_m", "q4_k": "q4_k_m", "q5_k": "q5_k_m"}  # as llama.cpp's tool has them
FALLBACKS = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}  # blocks of 256: of 32


def mix_named(name: str) -> Mix:
    """Find a mix. GGUFError for a name that is none, with the nearest."""
    known = ALIASES.get(name.lower(), name.lower())
    if known not in MIXES:
        raise GGUFError(f"no type is called {name[:40]!r}; {did_you_mean(name, MIXES)}")
    return MIXES[known]


def types_for(source: GGUFFile, mix: Mix, imatrix: bool = False) -> dict[str, BlockType]:  # {name of a tensor: its type}
    """Choose the type of each tensor. imatrix: whether one is at hand, which moves some rules.

    GGUFError for an architecture that the rules were not made for, and for metadata that do not say what they ask.
    """
    architecture = source.architecture
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise GGUFError(f"{source.path}: which types suit architecture {shown(architecture)} is not known; these are: {known}.")
    keys = Fields(source.metadata, f"{source.path}: metadata ", GGUFError)
    layers, heads = keys.whole(f"{architecture}.block_count"), keys.whole(f"{architecture}.attention.head_count", low=1)
    kv_heads = keys.whole(f"{architecture}.attention.head_count_kv", heads, low=1)
    experts = keys.whole(f"{architecture}.expert_count", 0, low=0)
    tied, chosen = "output.weight" not in source.tensors, {}
    large = layers == 80 and (architecture == "qwen2" or architecture == "llama" and heads != kv_heads)
    for name, info in source.tensors.items():
        if not is_matrix(info):
            chosen[name] = info.type
            continue
        site = Site(layer_of(name), layers, heads // kv_heads, experts, imatrix)
        wanted = type_at(name, site, mix, tied, large)
        chosen[name] = fitting(wanted, info.shape[-1])
    return chosen


def is_matrix(info: TensorInfo) -> bool:
    """Whether a tensor is one of those that are quantized: a matrix of weights, but no norm, and not what chooses experts."""
    rows = max(info.shape[:-1], default=1)
    return rows > 1 and info.name.endswith("weight") and not info.name.endswith(("_norm.weight", "ffn_gate_inp.weight"))


def layer_of(name: str) -> int:
    found = re.match(r"blk\.(\d+)\.", name)
    return int(found[1][:9]) if found else 0


def type_at(name: str, site: Site, mix: Mix, tied: bool, large: bool) -> str:
    """Apply the table to one matrix. large: a 70B model, which spares its values."""
    if mix.even:
        return mix.type
    if name == "output.weight" or tied and name == "token_embd.weight":
        return mix.head
    role = name.split(".")[2].removesuffix("_exps") if re.match(r"blk\.\d+\..", name) else name
    if site.experts == 8 and role in ("attn_k", "attn_v"):
        return "Q8_0"
    if site.experts == 8 and role == "attn_output":
        return mix.eight_experts or mix.type
    wanted = next((type_ for holds, type_ in mix.rules.get(role, ()) if holds(site)), mix.type)
    return "Q5_K" if large and role == "attn_v" and wanted in ("Q3_K", "Q4_K") else wanted


def fitting(wanted: str, columns: int) -> BlockType:
    """Choose a type whose blocks fill a row: the wanted one, its fallback with blocks of 32, or F16."""
    names = (wanted, FALLBACKS.get(wanted, wanted), "F16")
    return next(TYPES[name] for name in names if columns % TYPES[name].weights == 0)
