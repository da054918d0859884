"""What the tests of the Numba backend share: stored matrices of every type, an oracle in float64, and the tolerance.

The oracle's weights come from the gguf package and its products are float64. The kernels round x to 16 bits a block of 32
columns, so each x is off by at most top / 65,534, with top the block's largest |x|; the errors of a row's columns have
either sign and add up like √n. ROUNDING times the length of (weight · top) is seven standard deviations of that. On top
comes float32: FLOAT32 of the sum of absolute values. A scale of the wrong group is off by ten thousand times as much.
"""

import gguf
import numpy as np
from gguf_files import random_blocks
from our_blocks import OURS, values_of_ours

from minillm.backends.numba_.packed import LAYOUTS
from minillm.formats.blocks import BLOCK_TYPES
from minillm.model.weights import StoredTensor

PLAIN = ("F32", "F16", "BF16")
PACKED = tuple(name for name in LAYOUTS if name not in OURS)  # those of ggml; the others: test_07_quantization_native.py
TYPES = (*PACKED, *PLAIN)
ROUNDING, FLOAT32 = 4 * 2.0**-16, 1e-6


def stored_matrix(type, rows, columns, seed=0, raw=None):  # -> StoredTensor
    """Random bytes of this type, whose scales are of a sane size; plain types: small numbers."""
    rng = np.random.default_rng([seed, rows, columns])
    if raw is None and type in PLAIN:
        values = rng.normal(0, 0.5, (rows, columns)).astype(np.float32)
        raw = gguf.quants.quantize(values, gguf.GGMLQuantizationType[type]).view(np.uint8)
    raw = random_blocks(type, (rows, columns), rng) if raw is None else raw
    return StoredTensor(raw.reshape(-1), BLOCK_TYPES[type], (rows, columns))


def values_of(tensor):  # StoredTensor -> (rows, columns) float32, by the gguf package, or our_blocks.py
    if tensor.type.name in OURS:
        return values_of_ours(tensor.type.name, tensor.raw, tensor.shape)
    raw = np.array(tensor.raw).reshape(tensor.shape[0], -1)
    with np.errstate(all="ignore"):
        return gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[tensor.type.name]).reshape(tensor.shape)


def rows_first(tensor, rows):  # the first rows of a stored matrix
    nbytes = tensor.type.nbytes((rows, tensor.shape[1]))
    return StoredTensor(tensor.raw[:nbytes], tensor.type, (rows, tensor.shape[1]))


def product(x, w, packed):  # (n, columns), (rows, columns) -> (n, rows) float64, and what it may be off by
    """x Wᵀ and its tolerance."""
    x, w = np.float64(x), np.float64(w)
    tolerance = FLOAT32 * (np.abs(x) @ np.abs(w).T)
    if packed:
        top = np.abs(x).reshape(len(x), -1, 32).max(axis=2).repeat(32, axis=1)
        tolerance = tolerance + ROUNDING * np.sqrt((top**2) @ (w**2).T)
        tolerance += FLOAT32 * 16 * np.outer(np.abs(x).sum(axis=1), np.abs(w).max(axis=1))  # scale · sum - minimum cancels
    return x @ w.T, tolerance


def check_product(actual, x, w, packed, what):
    """actual is x Wᵀ, entry by entry within its tolerance."""
    check_within(actual, *product(x, w, packed), what)


def check_within(actual, expected, tolerance, what):
    assert actual.shape == expected.shape and actual.dtype == np.float32, f"{what}: {actual.dtype} {actual.shape}"
    off = np.abs(actual - expected) / (tolerance + 1e-30)
    at = np.unravel_index(int(np.nanargmax(off)) if off.size else 0, off.shape)
    assert np.isfinite(actual).all() and off.max(initial=0) <= 1, (
        f"{what}: off by {off[at]:.1f} times the tolerance at {tuple(map(int, at))}: {actual[at]!r}, expected {expected[at]!r}"
    )
