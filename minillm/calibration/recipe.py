"""How a file is to be quantized: method, grid, and which tensors: for the layers' matrices; embedding, head and vectors apart.

The layers' matrices are nearly all of a model, and what the methods are for. The embedding, often the head as well, decides
between all tokens: 8 bits (Q8_0) unless told otherwise. Vectors stay float32.

    method    needs a text    what it chooses
    rtn       no              nothing: each weight takes the nearest step
    hqq       no              the minimum of each group
    gptq      yes             the codes, one column after another
    awq       yes             scales of columns, folded into what comes before; limits of groups; then as rtn

A group that does not fill the rows of a matrix is refused, rather than replaced by a smaller one: files of one group and another
are not to be compared, and nobody would see it. (SmolLM2-135M has rows of 576 = 9 · 64 weights: 32 and 64 fill them, 128 not.)
"""

from dataclasses import dataclass
from typing import Any

from minillm.errors import MiniLLMError, did_you_mean
from minillm.formats.affine_blocks import GROUPS, affine_name
from minillm.formats.blocks import BlockType
from minillm.formats.gguf import GGUFFile
from minillm.formats.mixes import TYPES
from minillm.formats.requantize import at
from minillm.model.adapters import FIELDS
from minillm.quantization.affine import Grid

METHODS = {"rtn": False, "hqq": False, "gptq": True, "awq": True}  # whether it needs a text
KEYS = "minillm.quantization."  # of metadata


@dataclass(frozen=True)
class Recipe:
    """How a file is quantized. head: the type of embedding and head. text: the name of what it was calibrated on.

    MiniLLMError for what a method, or a file, cannot do.
    """

    method: str
    grid: Grid
    head: str = "Q8_0"
    act_order: bool = False
    text: str = ""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise MiniLLMError(f"no method is called {self.method[:40]!r}; {did_you_mean(self.method, METHODS)}")
        if self.grid.group not in GROUPS:
            raise MiniLLMError(f"groups of a file have {', '.join(map(str, GROUPS[:-1]))} or {GROUPS[-1]} weights, "
                               f"found {self.grid.group}.")  # fmt: skip
        if (head := TYPES.get(self.head)) is None or not head.quantizable:
            known = [name for name, kind in TYPES.items() if kind.quantizable]
            raise MiniLLMError(f"no type for the head is called {self.head[:40]!r}; {did_you_mean(self.head, known)}")
        if self.act_order and self.method != "gptq":
            raise MiniLLMError(f"gptq alone has an order of columns, found act-order with {self.method}.")
        if self.grid.symmetric and self.method == "hqq":
            raise MiniLLMError("hqq moves the minimum of a group, and a symmetric grid has none: leave out one of the two.")

    @property
    def calibrated(self) -> bool:
        return METHODS[self.method]

    def metadata(self, tokens: int) -> dict[str, Any]:
        """What a file says of how it was quantized. tokens: of the calibration."""
        said = {"method": self.method, "bits": self.grid.bits, "group": self.grid.group, "symmetric": self.grid.symmetric}
        if self.method == "gptq":
            said["act_order"] = self.act_order
        if self.calibrated:
            said |= {"calibration": self.text, "calibration_tokens": tokens}
        return {KEYS + key: value for key, value in said.items()}


def types_with(recipe: Recipe, source: GGUFFile) -> dict[str, BlockType]:  # {name of a tensor: its type}, as they will lie
    """Choose the type of each tensor, in the order of the forward pass. GGUFError for one whose rows are not filled."""
    group = recipe.grid.group or 0
    widths = {info.shape[-1] for name, info in source.tensors.items() if is_layers_matrix(name)}
    found = {}
    for name in sorted(source.tensors, key=layer_of):
        shape = source.tensors[name].shape
        if len(shape) == 1:
            kind = TYPES["F32"]
        elif is_layers_matrix(name):
            kind = TYPES[affine_name(recipe.grid.bits, group)]
        else:
            kind = TYPES[recipe.head]
        if left := shape[-1] % kind.weights:
            fit = " and ".join(str(size) for size in GROUPS if all(width % size == 0 for width in widths)) or "none of a file's"
            instead = f"of groups, {fit} would fill all layers" if is_layers_matrix(name) else "choose another type for the head"
            raise at(source, name, f"{kind.weights} weights do not fill rows of {shape[-1]:,}, {left} are left over; {instead}.")
        found[name] = kind
    return found


def layer_of(name: str) -> int:
    """Find the layer of a tensor, -1 where it is in none."""
    parts = name.split(".")
    return int(parts[1]) if parts[0] == "blk" and len(parts) > 1 and parts[1].isascii() and parts[1].isdigit() else -1


def is_layers_matrix(name: str) -> bool:  # "blk.3.ffn_down.weight"
    parts = name.split(".")
    return layer_of(name) >= 0 and len(parts) == 4 and parts[2] in FIELDS and parts[3] == "weight"
