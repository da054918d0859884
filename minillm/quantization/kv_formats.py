"""Keys and values in 8 or 4 bits: the row of bytes that stands for one token's keys (or values) of one head.

Every token and head has a scale of its own, so a row depends on nothing but itself: it is written once, when the token is
appended, and may be copied, shared, swapped and moved as bytes. d numbers become

    int8   d + 2     d codes, signed                    scale                  x = scale · code               scale = max|x| / 127
    fp8    d + 2     d bytes e4m3                       scale                  x = scale · e4m3(code)         scale = max|x| / 448
    int4   d/2 + 4   codes i and d/2 + i in byte i      scale, minimum         x = scale · code + minimum     code = 0 … 15
    rot4   d/2 + 4   int4 of H x                        scale, minimum         H: Hadamard's matrix, its own inverse

Scale and minimum are float16, little-endian, at the end of the row. They are rounded first, and codes are chosen against what is
stored. rot4: attention is the same in any axes, q·k = (H q)·(H k), so queries are turned as the keys are; and what comes out is
a mix of turned values, which H turns back. An outlier of one channel, which would set the step of all, is spread evenly.

Shen et al. 2020, arXiv:1909.05840 (groups of a row); Micikevicius et al. 2022, arXiv:2209.05433 (e4m3); the KV cache rotated:
Ashkboos et al. 2024, arXiv:2404.00456 (QuaRot). Groups of tokens instead of rows: kivi.py.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy import ndarray as Array

from minillm.errors import MiniLLMError
from minillm.quantization.affine import as_half
from minillm.quantization.fp8 import LARGEST, decode_e4m3, encode_e4m3
from minillm.quantization.hadamard import walsh_hadamard

HALF = np.dtype("<f2")  # how scales and minima are stored


def encode_int8(x: Array) -> Array:  # (..., d) float32 -> (..., d + 2) uint8
    """Quantize each row on a symmetric grid of -127 … 127. A row of zeros has scale 0."""
    scale = as_half(np.abs(x).max(axis=-1, keepdims=True) / np.float32(127))
    codes = np.clip(np.rint(x / never_zero(scale)), -127, 127)  # a scale that was rounded down asks for more than 127
    return joined(codes.astype(np.int8).view(np.uint8), scale)


def decode_int8(rows: Array) -> Array:  # (..., d + 2) uint8 -> (..., d) float32
    """Compute scale · code."""
    codes, scale = taken_apart(rows, 1)
    return codes.view(np.int8) * scale


def encode_fp8(x: Array) -> Array:  # (..., d) float32 -> (..., d + 2) uint8
    """Round each row to e4m3 with its largest magnitude at 448. A row of zeros has scale 0."""
    scale = as_half(np.abs(x).max(axis=-1, keepdims=True) / np.float32(LARGEST))
    return joined(encode_e4m3(x / never_zero(scale)), scale)  # which saturates at 448


def decode_fp8(rows: Array) -> Array:  # (..., d + 2) uint8 -> (..., d) float32
    """Compute scale · e4m3(code)."""
    codes, scale = taken_apart(rows, 1)
    return decode_e4m3(codes) * scale


def encode_int4(x: Array) -> Array:  # (..., d) float32 -> (..., d/2 + 4) uint8
    """Quantize each row on an asymmetric grid of 16 steps, from its smallest number to its largest. d is even."""
    x = x + np.float32(0)  # -0 becomes 0: else it is chance which of the two is the minimum
    # BEGIN SOLUTION ex=08.7
    lowest, highest = x.min(axis=-1, keepdims=True), x.max(axis=-1, keepdims=True)
    scale, minimum = as_half((highest - lowest) / np.float32(15)), as_half(lowest)
    codes = np.clip(np.rint((x - minimum) / never_zero(scale)), 0, 15).astype(np.uint8)
    half = x.shape[-1] // 2
    return joined(codes[..., :half] | codes[..., half:] << 4, scale, minimum)
    # END SOLUTION


def decode_int4(rows: Array) -> Array:  # (..., d/2 + 4) uint8 -> (..., d) float32
    """Compute scale · code + minimum."""
    pairs, scale, minimum = taken_apart(rows, 2)
    return np.concatenate([pairs & 15, pairs >> 4], axis=-1) * scale + minimum


def never_zero(scale: Array) -> Array:  # -> the same, infinite where it was 0: x / ∞ = 0
    """Replace scales of 0: such a row is too small for float16, and all its codes are 0."""
    return np.where(scale == 0, np.float32(np.inf), scale)


def joined(codes: Array, *numbers: Array) -> Array:  # (..., n) uint8, (..., 1) float32 each -> (..., n + 2 · numbers) uint8
    """Put numbers behind the codes of each row, as float16."""
    halves = np.concatenate(numbers, axis=-1).astype(HALF)
    return np.concatenate([codes, halves.view(np.uint8)], axis=-1)


def taken_apart(rows: Array, count: int) -> list[Array]:  # (..., width) uint8 -> (..., n) uint8, (..., 1) float32 each
    """Undo `joined`, for so many numbers."""
    codes = np.ascontiguousarray(rows[..., : -2 * count])
    halves = np.ascontiguousarray(rows[..., -2 * count :]).view(HALF).astype(np.float32)
    return [codes, *np.split(halves, count, axis=-1)]


@dataclass(frozen=True, slots=True)
class KVFormat:
    """A format of rows. number: what kernels know it by. bits: of a code. halves: float16 numbers of a row. rotated: by H.

    Errors: MiniLLMError for heads of a size that the format does not divide, for NaN and infinity, and beyond float16's range.
    """

    name: str
    number: int
    bits: int
    halves: int
    encode_row: Callable[[Array], Array]
    decode_row: Callable[[Array], Array]
    rotated: bool = False

    def width(self, d: int) -> int:
        """Count the bytes of a row that stands for d numbers."""
        if d < 1 or d * self.bits % 8:
            raise MiniLLMError(f"{self.name} keeps {8 // self.bits} codes in a byte: heads need an even size, found {d:,}.")
        if self.rotated and d & (d - 1):
            raise MiniLLMError(f"{self.name} rotates by Hadamard's matrix: heads of a power of two are needed, found {d:,}.")
        return d * self.bits // 8 + 2 * self.halves

    def widths(self, d: int) -> tuple[int, int]:
        """Count the bytes of a row of keys, and of a row of values: here the same."""
        return self.width(d), self.width(d)

    def rotate(self, x: Array) -> Array:  # (n, heads, d) -> (n, heads, d)
        """Turn queries to the axes in which rows are stored, or an output back from them. For most formats: leave x as it is.

        Sums of two numbers, in one order: no bit depends on which tokens come along, nor on who computes it.
        """
        return walsh_hadamard(x) if self.rotated else x

    def encode(self, x: Array) -> Array:  # (n, heads, d) -> (n, heads, width) uint8
        """Quantize the keys or values of n tokens."""
        self.width(x.shape[-1])
        x = np.asarray(x, np.float32)
        if not np.isfinite(x).all():
            bad = np.count_nonzero(~np.isfinite(x))
            raise MiniLLMError(f"a KV cache in {self.name} takes finite numbers; found {bad:,} of {x.size:,} NaN or infinite.")
        return self.encode_row(self.rotate(x))

    def decode(self, rows: Array) -> Array:  # (..., width) uint8 -> (..., d) float32
        """Dequantize rows, in the axes in which they are stored (`rotate`)."""
        return self.decode_row(rows)


FORMATS = {
    made.name: made
    for made in (
        KVFormat("int8", 1, 8, 1, encode_int8, decode_int8),
        KVFormat("int4", 2, 4, 2, encode_int4, decode_int4),
        KVFormat("fp8", 3, 8, 1, encode_fp8, decode_fp8),
        KVFormat("rot4", 4, 4, 2, encode_int4, decode_int4, rotated=True),
    )
}
