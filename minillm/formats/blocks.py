"""Block types: how GGUF packs weights into a few bits, and how to get them back.

A row of weights is cut into blocks. A block holds small integers q and what they have in common, kept in 16 bits: a scale
d, and in some types a minimum m. Eight bits a weight for the integer alone would be 8; with the scale of 32 weights it is
8.5. Every type below is a variation of one line, and its picture shows where the bytes lie:

    w = d · q        or        w = d · q + m

The larger blocks of the K types are in `k_quants.py`. Layouts: ggml's quants (`ggml-common.h`, `ggml-quants.c`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from minillm.errors import GGUFError
from minillm.formats import k_quants
from minillm.formats.k_quants import Factors, Parts, half, multiplied, spread

CHUNK = 1 << 17  # weights decoded at a time: the temporaries stay in the processor's cache


def f32(blocks: np.ndarray, out: np.ndarray) -> None:
    """| w: 4 |"""
    out[:] = blocks.view("<f4")


def f16(blocks: np.ndarray, out: np.ndarray) -> None:
    """| w: 2 |   sign, 5 bits of exponent, 10 of mantissa"""
    out[:] = blocks.view("<f2")


def bf16(blocks: np.ndarray, out: np.ndarray) -> None:
    """| w: 2 |   the upper half of a float32: the same range, 7 bits of mantissa"""
    out.view(np.uint32)[:] = blocks.view("<u2").astype(np.uint32) << 16


def q8_0(blocks: np.ndarray) -> Parts:
    """| d: 2 | q: 32 × 8 bits |   signed; w = d · q"""
    return blocks[:, 2:].view(np.int8), half(blocks[:, 0:2]), None


def q4_0(blocks: np.ndarray) -> Parts:
    """| d: 2 | q: 16 bytes |   byte j holds weight j in its low four bits and weight j + 16 in its high ones; w = d · (q - 8)"""
    return low_then_high(blocks[:, 2:]).view(np.int8) - np.int8(8), half(blocks[:, 0:2]), None


def q4_1(blocks: np.ndarray) -> Parts:
    """| d: 2 | m: 2 | q: 16 bytes, as in Q4_0 |   w = d · q + m"""
    return low_then_high(blocks[:, 4:]), half(blocks[:, 0:2]), -half(blocks[:, 2:4])


def q5_0(blocks: np.ndarray) -> Parts:
    """| d: 2 | fifth bits: 4 | q: 16 bytes, as in Q4_0 |   bit j of the four bytes tops weight j; w = d · (q - 16)"""
    q = low_then_high(blocks[:, 6:]) | spread(blocks[:, 2:6]) << 4
    return q.view(np.int8) - np.int8(16), half(blocks[:, 0:2]), None


def q5_1(blocks: np.ndarray) -> Parts:
    """| d: 2 | m: 2 | fifth bits: 4 | q: 16 bytes |   w = d · q + m"""
    q = low_then_high(blocks[:, 8:]) | spread(blocks[:, 4:8]) << 4
    return q, half(blocks[:, 0:2]), -half(blocks[:, 2:4])


def low_then_high(packed: np.ndarray) -> np.ndarray:  # (n, 16) uint8 -> (n, 32) uint8
    """Sixteen bytes to thirty-two integers: all the low halves, then all the high ones."""
    return np.concatenate([packed & 15, packed >> 4], axis=1)


def combine(  # (n, weights), (n, groups) float32, (n, groups) float32 or None, (n, weights) float32
    q: np.ndarray, scale: np.ndarray, minimum: np.ndarray | None, out: np.ndarray
) -> None:
    """w = scale · q - minimum, group by group: what all packed types have in common."""
    n, groups = scale.shape
    out[:] = q
    w = out.reshape(n, groups, -1)
    w *= scale[:, :, None]
    if minimum is not None:
        w -= minimum[:, :, None]


@dataclass(frozen=True, slots=True)
class BlockType:
    """One way to store weights: its number in a file, weights and bytes per block, and how to decode.

    A plain type is decoded by `plain`. A packed one has `parts`: the integers of a block, and each group's scale and minimum.
    A K type has `factors` too: the same before it is multiplied. A type that has none of these can be listed, not decoded.
    """

    name: str
    id: int
    weights: int
    bytes: int
    plain: Callable | None = None  # (n, bytes) uint8, (n, weights) float32 out -> None
    parts: Callable | None = None  # (n, bytes) uint8 -> (n, weights) ints, (n, groups) float32, (n, groups) float32 or None
    factors: Callable[[np.ndarray], Factors] | None = None  # (n, bytes) uint8 -> k_quants.Factors

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.bytes / self.weights

    @property
    def decodable(self) -> bool:
        return bool(self.plain or self.parts)

    def decode(self, blocks: np.ndarray, out: np.ndarray) -> None:  # (n, bytes) uint8, (n, weights) float32 -> None
        """Decode blocks to float32."""
        if self.plain:
            self.plain(blocks, out)
        elif self.parts:
            q, scale, minimum = self.parts(blocks)
            combine(q, scale, minimum, out)

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Count the bytes of a tensor of this shape; blocks run along the last axis."""
        return math.prod(shape) // self.weights * self.bytes


def k_type(name: str, id: int, nbytes: int, factors: Callable[[np.ndarray], Factors]) -> BlockType:
    """A type of super-blocks: 256 weights."""
    return BlockType(name, id, 256, nbytes, parts=multiplied(factors), factors=factors)


TYPES = (
    BlockType("F32", 0, 1, 4, plain=f32),
    BlockType("F16", 1, 1, 2, plain=f16),
    BlockType("Q4_0", 2, 32, 18, parts=q4_0),
    BlockType("Q4_1", 3, 32, 20, parts=q4_1),
    BlockType("Q5_0", 6, 32, 22, parts=q5_0),
    BlockType("Q5_1", 7, 32, 24, parts=q5_1),
    BlockType("Q8_0", 8, 32, 34, parts=q8_0),
    k_type("Q2_K", 10, 84, k_quants.q2_k),
    k_type("Q3_K", 11, 110, k_quants.q3_k),
    k_type("Q4_K", 12, 144, k_quants.q4_k),
    k_type("Q5_K", 13, 176, k_quants.q5_k),
    k_type("Q6_K", 14, 210, k_quants.q6_k),
    BlockType("BF16", 30, 1, 2, plain=bf16),
)
LISTED = tuple(  # further types of ggml.h: their size is known, so a file that has them can be read, but for their weights
    BlockType(name, id, weights, nbytes)
    for name, id, weights, nbytes in (
        ("Q8_1", 9, 32, 40), ("Q8_K", 15, 256, 292), ("IQ2_XXS", 16, 256, 66), ("IQ2_XS", 17, 256, 74), ("IQ3_XXS", 18, 256, 98),
        ("IQ1_S", 19, 256, 50), ("IQ4_NL", 20, 32, 18), ("IQ3_S", 21, 256, 110), ("IQ2_S", 22, 256, 82), ("IQ4_XS", 23, 256, 136),
        ("I8", 24, 1, 1), ("I16", 25, 1, 2), ("I32", 26, 1, 4), ("I64", 27, 1, 8), ("F64", 28, 1, 8), ("IQ1_M", 29, 256, 56),
        ("TQ1_0", 34, 256, 54), ("TQ2_0", 35, 256, 66), ("MXFP4", 39, 32, 17), ("NVFP4", 40, 64, 36), ("Q1_0", 41, 128, 18),
    )
)  # fmt: skip
BLOCK_TYPES = {t.name: t for t in TYPES}
BLOCK_TYPES_BY_ID = {t.id: t for t in (*TYPES, *LISTED)}


def dequantize(  # (nbytes,) uint8, BlockType, (..., columns) -> (..., columns) float32
    raw: np.ndarray, type: BlockType, shape: tuple[int, ...], out: np.ndarray | None = None
) -> np.ndarray:
    """Decode a tensor's bytes to float32, into `out` if given (a contiguous float32 array of that shape).

    Bit for bit what ggml computes. Works through the tensor in chunks, so the extra memory is small and constant.
    Errors: GGUFError where the bytes are not as many as the shape needs, or the type is not one that is decoded here.
    """
    if not type.decodable:
        raise GGUFError(f"weights of type {type.name} are not decoded; these are: {', '.join(BLOCK_TYPES)}.")
    if shape and shape[-1] % type.weights:
        raise GGUFError(f"{type.name} packs {type.weights} weights a block, a row of {shape[-1]:,} is no multiple of that.")
    if len(raw) != type.nbytes(shape):
        raise GGUFError(f"a {type.name} tensor of shape {tuple(shape)} takes {type.nbytes(shape):,} bytes, found {len(raw):,}.")
    out = np.empty(shape, np.float32) if out is None else out
    blocks, flat = raw.reshape(-1, type.bytes), out.reshape(-1, type.weights)
    if not np.shares_memory(flat, out) and out.size:
        raise ValueError("out must be contiguous")
    step = max(1, CHUNK // type.weights)
    with np.errstate(invalid="ignore", over="ignore"):  # scales of an untrusted file may be inf or NaN; so are the weights then
        for start in range(0, len(blocks), step):
            type.decode(np.ascontiguousarray(blocks[start : start + step]), flat[start : start + step])
    return out


def quantize_q8_0(weights: np.ndarray) -> np.ndarray:  # (..., columns) float32, columns a multiple of 32 -> (nbytes,) uint8
    """Quantize to Q8_0: in each block the largest magnitude becomes 127, the others the nearest integer.

    Errors: GGUFError where a row is no multiple of a block, or its largest weight is beyond float16's scale (8.3 million).
    """
    if not weights.size or weights.shape[-1] % 32:
        raise GGUFError(f"Q8_0 packs 32 weights a block, found a tensor of shape {weights.shape}.")
    rows = np.asarray(weights, np.float32).reshape(-1, 32)
    with np.errstate(over="ignore"):
        scale = (np.abs(rows).max(axis=1, keepdims=True) / 127).astype("<f2")
    if not np.isfinite(scale).all():
        raise GGUFError(f"Q8_0 holds weights up to {127 * 65504:,}, found {np.abs(rows).max():,}.")
    wide = scale.astype(np.float32)
    codes = np.rint(rows / np.where(wide == 0, 1, wide)).clip(-127, 127).astype(np.int8)
    return np.concatenate([scale.view(np.uint8), codes.view(np.uint8)], axis=1).reshape(-1)
