"""QLoRA: a frozen base in four bits, adapters in thirty-two.

LoRA's base gets no gradient, so nothing small is ever added to it: it may be kept as coarse as inference can bear. Each
product makes its one matrix from the codes, multiplies, and lets it go; forward does, and backward again. Gradients pass
through the dequantized weights and stop there. What training then adds is at full precision, and learns around the error.

    y = x Ŵᵀ + (α/r) (x Aᵀ) Bᵀ        Ŵ = dense(codes), made twice a step        dx = dy Ŵ + (α/r) (dy B) A

    matrices of the layers      NF4, 4.127 bits      nearly all weights of a large model
    norms, biases               32 bits              a vector a layer; each value scales a whole column
    embedding and head          16 bits              a row is one token's only say, and its error meets nothing to average with

A small model is mostly embedding, so the last line decides its size: table="nf4" packs them too, and bits() says what comes
out. But the head too is made of floats as a whole when it is used: where the step's peak is there (memory.py tells), a table
that stays in 32 bits takes the least. Training is lora.py's, with this base. To merge means to leave four bits: lora.merge
gives float32.

Dettmers et al. 2023, arXiv:2305.14314; NF4 and double quantization: quantization/nf4.py; paged moments: paged.py.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from minillm.errors import TrainingError
from minillm.model.config import ModelConfig
from minillm.model.random_model import tensor_shapes
from minillm.quantization.nf4 import nf4_nbytes, quantize_nf4

TABLES = ("token_embd.weight", "output.weight")
KINDS = ("nf4", "f16", "f32")  # of a table


@dataclass(frozen=True, slots=True)
class HalfMatrix:
    """A matrix in 16 bits, the usual precision of published models."""

    values: np.ndarray  # float16

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def nbytes(self) -> int:
        return self.values.nbytes

    def dense(self) -> np.ndarray:  # -> float32
        return self.values.astype(np.float32)


def quantize_base(  # {name: array} -> {name: array, HalfMatrix or NF4Matrix}
    parameters: Mapping[str, np.ndarray], table: str = "f16"
) -> dict[str, Any]:
    """Quantize the base of lora.loss_and_gradients. table: how embedding and head are kept, "nf4", "f16" or "f32".

    Vectors are shared with `parameters`, not copied; the matrices of `parameters` can be freed.
    TrainingError: another kind of table, or weights that float16 cannot hold. MiniLLMError: NaN or infinity.
    """
    base = {}
    for name, array in parameters.items():
        kind = kind_of(name, array.shape, table)
        base[name] = quantize_nf4(array) if kind == "nf4" else half(name, array) if kind == "f16" else array
    return base


def half(name: str, array: np.ndarray) -> HalfMatrix:
    largest, limit = float(np.abs(array).max(initial=0)), float(np.finfo(np.float16).max)
    if not largest <= limit:  # NaN is not
        raise TrainingError(f"{name}: 16 bits hold weights up to {limit:,.0f}, found {largest:,.0f}.")
    return HalfMatrix(array.astype(np.float16))


def kind_of(name: str, shape: tuple[int, ...], table: str) -> str:  # -> "nf4", "f16" or "f32"
    """Choose how a tensor of the base is kept."""
    if table not in KINDS:
        raise TrainingError(f"the embedding table can be kept as {', '.join(KINDS)}, found {table!r}.")
    if len(shape) == 1:
        return "f32"
    return table if name in TABLES else "nf4"


def base_nbytes(config: ModelConfig, table: str = "f16") -> int:  # ModelConfig -> bytes
    """Count the bytes of a quantized base of this shape, without making it."""
    width = {"f16": 2, "f32": 4}
    kinds = {name: kind_of(name, shape, table) for name, shape in tensor_shapes(config).items()}
    sizes = (
        nf4_nbytes(shape) if kinds[name] == "nf4" else width[kinds[name]] * math.prod(shape)
        for name, shape in tensor_shapes(config).items()
    )
    return sum(sizes)


def bits(  # {name: array or what quantize_base makes}, name -> bool: -> float
    base: Mapping[str, Any], only: Callable[[str], bool] = lambda name: True
) -> float:
    """Compute bits a weight, over all tensors whose name `only` takes: every byte of them, over every weight."""
    chosen = [w for name, w in base.items() if only(name)]
    return 8 * sum(w.nbytes for w in chosen) / max(sum(math.prod(w.shape) for w in chosen), 1)
