"""8-bit activations: what a matrix is multiplied with is rounded to 8 bits, so that the product is one of small integers.

    block of 32 columns     scale = max|x| / 127        q = round(x / scale), -127 … 127        x ≈ scale · q

Weights of 4 bits are whole numbers already, with a scale for each 32 columns. With x rounded likewise, a processor multiplies
unsigned bytes by signed ones, four a lane in one instruction (VNNI), which is twice as many as of 16 bits. That costs accuracy:
the error of x is up to 1/254 of the block's largest number, where 16 bits leave 1/65,534 and nothing is seen of it. llama.cpp
rounds like this always; here it is a switch, "int8", off by default.

This file is the reference: it multiplies the rounded x in float32, so its numbers are those of the kernels (numba_/tile.py) but
for float32's own rounding. Exact stay matrices of floats, NF4, whose levels are floats, and types that have no kernels.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy import ndarray as Array

from minillm import layers
from minillm.backends import PACKED
from minillm.backends.invariant import reference as invariant
from minillm.backends.ops import Ops
from minillm.errors import MiniLLMError, did_you_mean

ACTIVATIONS = "exact", "int8"
TOP = 127  # of 8 bits with a sign; -128 is left out, so that x and -x are rounded alike
BLOCK = 32  # columns that share a scale
ROUNDING = tuple(name for name in PACKED["numba"] if name != "NF4")  # types of matrices that are multiplied with rounded x


def with_activations(ops: Ops, kind: str) -> Ops:
    """Make the operations of a backend with exact or 8-bit activations: matrices that it loads know which.

    MiniLLMError for another kind, and where the backend has no 8-bit products.
    """
    if kind not in ACTIVATIONS:
        raise MiniLLMError(f"activations are {' or '.join(ACTIVATIONS)}, found {kind!r}; {did_you_mean(kind, ACTIVATIONS)}")
    if kind == ops.activations:
        return ops
    if ops.int8_activations is None:
        raise MiniLLMError(f"the {ops.name} backend has no products with 8-bit activations; numpy and numba have.")
    return replace(ops, activations=kind, **ops.int8_activations())


def round_blocks(x: Array) -> tuple[Array, Array]:  # (n, columns) -> (n, columns) int8, (n, columns / 32) float32
    """Round to whole numbers and their scales, a block of 32 columns for itself; a tie goes to the even number.

    A block of zeros has scale 0. NaN or infinity makes the scale of its block NaN, and so the products: nothing is hidden.
    """
    blocks = np.ascontiguousarray(x, np.float32).reshape(len(x), -1, BLOCK)
    with np.errstate(invalid="ignore", divide="ignore"):
        sizes = np.abs(blocks)
        top = sizes.max(axis=2, where=~np.isnan(sizes), initial=0)
        inverse = np.where(top > 0, np.float32(TOP) / top, np.float32(0))
        numbers = np.rint(blocks * inverse[..., None])
        finite = np.isfinite(sizes.max(axis=2))  # NaN is larger than all
        scale = np.where(finite, top * np.float32(1 / TOP), np.float32("nan"))
    codes = np.where(finite[..., None], numbers, 0).astype(np.int8)
    return codes.reshape(x.shape), scale


def rounded(x: Array) -> Array:  # (n, columns) -> (n, columns) float32
    """Round to 8 bits and back."""
    codes, scale = round_blocks(x)
    return codes * scale.repeat(BLOCK, axis=1)


@dataclass(frozen=True, eq=False)
class RoundingMatrix:
    """A weight that NumPy multiplies with rounded x. matrix: (d_out, d_in) float32."""

    matrix: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.matrix.shape

    @property
    def nbytes(self) -> int:
        return self.matrix.nbytes


def linear(x: Array, weight: Any, bias: Array | None = None) -> Array:  # (n, d_in), RoundingMatrix or (d_out, d_in) -> (n, d_out)
    """Compute layers.linear, of rounded x where the weight wants it."""
    if isinstance(weight, RoundingMatrix):
        x, weight = rounded(x), weight.matrix
    return layers.linear(x, weight, bias)


def embed(tokens: Array, table: Any) -> Array:  # (n,), RoundingMatrix or (vocab, d) -> (n, d): looking up is no product
    return layers.embed(tokens, table.matrix if isinstance(table, RoundingMatrix) else table)


def load_matrix(load: Callable, tensor: Any) -> Any:  # as numpy_.load_matrix, StoredTensor -> (d_out, d_in), or RoundingMatrix
    matrix = load(tensor)
    return RoundingMatrix(matrix) if matrix.ndim == 2 and tensor.type.name in ROUNDING else matrix


def reference(load: Callable) -> dict[str, Any]:  # as numpy_.load_matrix -> {name: operation}
    """Replace NumPy's operations, those of its batch-invariant mode too."""
    return {
        "load_matrix": partial(load_matrix, load),
        "embed": embed,
        "linear": linear,
        "add_linear": lambda x, h, weight: x + linear(h, weight),
        "attention_inputs": partial(layers.attention_inputs, linear=linear),
        "add_feed_forward": partial(layers.add_feed_forward, linear=linear),
        "invariant": partial(invariant, linear),
    }
