"""The NumPy backend: the reference functions of floor 1, handed on under the names that every backend has.

A backend is a module (ops.py). The transformer calls `ops.linear`, `ops.attention` and so on, and does not know which module
that is. Here host and device are the same memory, and a weight is a float32 matrix, dequantized once at load: simple, exact,
and four to eight times the bytes of the file. A faster backend keeps the packed blocks and unpacks them inside its kernels.
"""

from typing import Any

import numpy as np

from minillm import layers as reference
from minillm.attention.naive import attention
from minillm.attention.paged import paged_attention
from minillm.backends.activations import reference as rounding  # the module's name is one of Ops' fields
from minillm.backends.blas import libraries
from minillm.backends.invariant import reference as invariant
from minillm.backends.step import AttentionStep
from minillm.formats.blocks import dequantize
from minillm.layers import (
    add_feed_forward,
    add_linear,
    attention_inputs,
    embed,
    linear,
    rms_norm,
    rope_angles,
)
from minillm.memory import keep_freed_memory

keep_freed_memory()

__all__ = [
    "AttentionStep",
    "add_feed_forward",
    "add_linear",
    "attention",
    "attention_inputs",
    "download",
    "embed",
    "empty",
    "int8_activations",
    "invariant",
    "linear",
    "load_matrix",
    "most_likely",
    "paged_attention",
    "prepare_layers",
    "rms_norm",
    "rope_angles",
    "run_layers",
    "upload",
    "zeros",
]


def empty(shape: Any, dtype: Any = np.float32) -> np.ndarray:
    """Allocate an array without initializing it."""
    return np.empty(shape, dtype)


def zeros(shape: Any, dtype: Any = np.float32) -> np.ndarray:
    """Allocate an array of zeros."""
    return np.zeros(shape, dtype)


def upload(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Move arrays from host to device: here they are one."""
    return arrays


def download(array: np.ndarray) -> np.ndarray:
    """Move an array from device to host."""
    return array


def most_likely(logits: np.ndarray) -> np.ndarray:  # (n, vocab) -> (n,) int64
    """Find the greedy token of each row, the lowest id among equals; -1 where the largest is not finite (argmax prefers NaN)."""
    tokens = logits.argmax(axis=1)
    return np.where(np.isfinite(logits[np.arange(len(logits)), tokens]), tokens, -1)


def prepare_layers(layers: list) -> list:  # [LayerWeights] -> [LayerWeights]
    """Convert the layers of a model for run_layers of this backend."""
    return layers


def run_layers(x: np.ndarray, layers: list, c: Any, angles: Any, step: Any) -> np.ndarray:  # (n, d) -> (n, d)
    """Run all layers, as floor 1 does, with as many threads for the products as find a core."""
    libraries().fit()
    return reference.run_layers(x, layers, c, angles, step)


def load_matrix(tensor: Any) -> np.ndarray:  # a stored tensor of shape (d_out, d_in), any block type -> (d_out, d_in) float32
    """Convert a stored tensor to the weight that `linear` and `embed` of this backend take."""
    matrix = np.empty(tensor.shape, np.float32)
    dequantize(tensor.raw, tensor.type, tensor.shape, out=matrix)
    if tensor.scale is not None:
        matrix *= tensor.scale[:, None]
    return matrix


def int8_activations() -> dict:  # -> {name: operation}
    """Return the operations that round x to 8 bits before products with matrices that a file keeps packed."""
    return rounding(load_matrix)
