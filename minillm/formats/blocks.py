"""Block types: how GGUF packs weights into a few bits, and how to get them back.

A row of weights is cut into blocks. A block holds small integers q and what they have in common, kept in 16 bits: a scale
d, and in some types a minimum m. Eight bits a weight for the integer alone would be 8; with the scale of 32 weights it is
8.5. Every type below is a variation of one line, and its picture shows where the bytes lie:

    w = d · q        or        w = d · q + m

Here is the table of types, with what works on all of them: `dequantize` and `quantize`. Blocks of 32 weights are in
`legacy_quants.py`, the K types' larger ones in `k_quants.py` and `k_quants_write.py`, types whose integers number the entries
of a table in `codebook_quants.py`, small floats in `float_blocks.py`, and types that are ours alone in `affine_blocks.py`.
Layouts of all others: ggml's quants (`ggml-common.h`, `ggml-quants.c`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from minillm.errors import GGUFError, MiniLLMError
from minillm.formats import affine_blocks as affine
from minillm.formats import codebook_quants as codebooks
from minillm.formats import float_blocks as floats
from minillm.formats import k_quants, k_quants_write
from minillm.formats import legacy_quants as legacy
from minillm.formats.packing import Importance, to_half

CHUNK = 1 << 17  # weights decoded at a time: the temporaries stay in the processor's cache
SEARCHED = 1 << 15  # weights encoded at a time: a search for scales goes over them hundreds of times


def f32(blocks: np.ndarray, out: np.ndarray) -> None:
    """| w: 4 |"""
    out[:] = blocks.view("<f4")


def f16(blocks: np.ndarray, out: np.ndarray) -> None:
    """| w: 2 |   sign, 5 bits of exponent, 10 of mantissa"""
    out[:] = blocks.view("<f2")


def bf16(blocks: np.ndarray, out: np.ndarray) -> None:
    """| w: 2 |   the upper half of a float32: the same range, 7 bits of mantissa"""
    out.view(np.uint32)[:] = blocks.view("<u2").astype(np.uint32) << 16


def pack_f32(rows: np.ndarray, importance: Importance = None) -> np.ndarray:  # (n, columns) float32 -> (weights, 4) uint8
    return rows.astype("<f4").reshape(-1, 1).view(np.uint8)


def pack_f16(rows: np.ndarray, importance: Importance = None) -> np.ndarray:  # (n, columns) float32 -> (weights, 2) uint8
    return to_half(rows.reshape(-1, 1))


def pack_bf16(rows: np.ndarray, importance: Importance = None) -> np.ndarray:  # (n, columns) float32 -> (weights, 2) uint8
    """Keep the upper half of each float32, rounded to the nearest, a tie to the even one."""
    bits = rows.reshape(-1, 1).view(np.uint32)
    upper = (bits + (0x7FFF + (bits >> 16 & 1))) >> 16  # what the lower half carries over; finite, so bits cannot overflow
    if (upper & 0x7FFF == 0x7F80).any():
        raise OverflowError
    return upper.astype("<u2").view(np.uint8)


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
    """One way to store weights: its number in a file, weights and bytes per block, how to decode, and how to encode.

    A plain type is decoded by `plain`. A packed one has `parts`: the integers of a block, and each group's scale and minimum.
    A type that has neither can be listed, not decoded. `pack` encodes rows, with the importance of their columns or None.
    """

    name: str
    id: int
    weights: int
    bytes: int
    plain: Callable | None = None  # (n, bytes) uint8, (n, weights) float32 out -> None
    parts: Callable | None = None  # (n, bytes) uint8 -> (n, weights) ints, (n, groups) float32, (n, groups) float32 or None
    pack: Callable | None = None  # (n, columns) float32, (columns,) float32 or None -> (blocks, bytes) uint8

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.bytes / self.weights

    @property
    def known(self) -> bool:
        """Whether its size is known; see unknown_type."""
        return self.bytes > 0

    @property
    def decodable(self) -> bool:
        return bool(self.plain or self.parts)

    @property
    def quantizable(self) -> bool:
        return self.pack is not None

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


TYPES = (
    BlockType("F32", 0, 1, 4, plain=f32, pack=pack_f32),
    BlockType("F16", 1, 1, 2, plain=f16, pack=pack_f16),
    BlockType("Q4_0", 2, 32, 18, parts=legacy.q4_0, pack=legacy.pack_q4_0),
    BlockType("Q4_1", 3, 32, 20, parts=legacy.q4_1, pack=legacy.pack_q4_1),
    BlockType("Q5_0", 6, 32, 22, parts=legacy.q5_0, pack=legacy.pack_q5_0),
    BlockType("Q5_1", 7, 32, 24, parts=legacy.q5_1, pack=legacy.pack_q5_1),
    BlockType("Q8_0", 8, 32, 34, parts=legacy.q8_0, pack=legacy.pack_q8_0),
    BlockType("Q2_K", 10, 256, 84, parts=k_quants.q2_k, pack=k_quants_write.pack_q2_k),
    BlockType("Q3_K", 11, 256, 110, parts=k_quants.q3_k, pack=k_quants_write.pack_q3_k),
    BlockType("Q4_K", 12, 256, 144, parts=k_quants.q4_k, pack=k_quants_write.pack_q4_k),
    BlockType("Q5_K", 13, 256, 176, parts=k_quants.q5_k, pack=k_quants_write.pack_q5_k),
    BlockType("Q6_K", 14, 256, 210, parts=k_quants.q6_k, pack=k_quants_write.pack_q6_k),
    BlockType("IQ4_NL", 20, 32, 18, parts=codebooks.iq4_nl, pack=codebooks.pack_iq4_nl),
    BlockType("BF16", 30, 1, 2, plain=bf16, pack=pack_bf16),
    BlockType("MXFP4", 39, 32, 17, parts=codebooks.mxfp4, pack=codebooks.pack_mxfp4),
    BlockType("NVFP4", 40, 64, 36, parts=floats.nvfp4),  # written with its scale: float_blocks.py
    BlockType("FP8_E4M3", affine.OURS + 8, 1, 1, plain=floats.fp8),
    BlockType("NF4", affine.OURS + 4, 64, 34, plain=affine.nf4, pack=affine.pack_nf4),
    *(
        BlockType(
            affine.affine_name(*grid), affine.affine_id(*grid), grid[1], affine.affine_bytes(*grid),
            parts=partial(affine.affine_parts, *grid), pack=partial(affine.pack_nearest, *grid),
        )
        for grid in affine.AFFINE
    ),
)
LISTED = tuple(  # further types of ggml.h: their size is known, so a file that has them can be read, but for their weights
    BlockType(name, id, weights, nbytes)
    for name, id, weights, nbytes in (
        ("Q8_1", 9, 32, 40), ("Q8_K", 15, 256, 292), ("IQ2_XXS", 16, 256, 66), ("IQ2_XS", 17, 256, 74), ("IQ3_XXS", 18, 256, 98),
        ("IQ1_S", 19, 256, 50), ("IQ3_S", 21, 256, 110), ("IQ2_S", 22, 256, 82), ("IQ4_XS", 23, 256, 136),
        ("I8", 24, 1, 1), ("I16", 25, 1, 2), ("I32", 26, 1, 4), ("I64", 27, 1, 8), ("F64", 28, 1, 8), ("IQ1_M", 29, 256, 56),
        ("TQ1_0", 34, 256, 54), ("TQ2_0", 35, 256, 66), ("Q1_0", 41, 128, 18),
    )
)  # fmt: skip
BLOCK_TYPES = {t.name: t for t in TYPES}
BLOCK_TYPES_BY_ID = {t.id: t for t in (*TYPES, *LISTED)}


def unknown_type(id: int) -> BlockType:
    """Make a type for a number that is in no table here, newer or somebody's own: nobody knows the size of its blocks."""
    return BlockType(f"unknown {id}", id, 1, 0)


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


def quantize(  # (..., columns) float32 or float16, BlockType, (columns,) float32 or None -> (nbytes,) uint8
    weights: np.ndarray, type: BlockType, importance: Importance = None
) -> np.ndarray:
    """Encode a tensor as a type stores it; `dequantize` is the way back, less what the rounding lost.

    importance: how much an error in each column matters, the mean square of the column's input over some text (llama.cpp's
    imatrix). Types with a search for scales follow it; F32, F16, BF16, Q8_0 and MXFP4 do not look at it.
    Works through the tensor in chunks, so the extra memory is small and constant; a contiguous tensor is not copied.
    Errors: GGUFError for a row that is no multiple of a block, weights that are NaN, infinite or too large for the type's
    16-bit scale, importance of another length or with values that are negative or NaN, and types that are not written here.
    """
    pack = type.pack
    if pack is None:
        known = ", ".join(t.name for t in TYPES if t.quantizable)
        raise GGUFError(f"nothing is quantized to {type.name} here; the types that are: {known}.")
    weights = np.asarray(weights)
    if not weights.ndim or weights.shape[-1] % type.weights:
        raise GGUFError(f"{type.name} packs {type.weights} weights a block, found a tensor of shape {weights.shape}.")
    importance = None if importance is None else checked(importance, weights.shape[-1])
    out = np.empty(type.nbytes(weights.shape), np.uint8)
    width = type.weights if importance is None else weights.shape[-1]  # without importance each block stands for itself
    rows, blocks = weights.reshape(-1, max(1, width)), out.reshape(-1, width // type.weights * type.bytes or 1)
    step = max(1, SEARCHED // max(1, width))
    for start in range(0, len(rows), step):
        chunk = rows[start : start + step].astype(np.float32)
        if not np.isfinite(chunk).all():
            raise GGUFError(f"{type.name} holds finite weights: {odd_ones(weights)}")
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                blocks[start : start + step] = pack(chunk, importance).reshape(len(chunk), -1)
        except (OverflowError, MiniLLMError):
            largest = np.abs(chunk).max()
            raise GGUFError(f"{type.name} cannot hold weights as large as {largest:,.6g}: its 16-bit numbers overflow.") from None
    return out


def checked(importance: np.ndarray, columns: int) -> np.ndarray:  # -> (columns,) float32
    """Check the importance of each column. Raises GGUFError."""
    importance = np.asarray(importance, np.float32).reshape(-1)
    if len(importance) != columns:
        raise GGUFError(f"importance has {len(importance):,} values, the tensor has {columns:,} columns.")
    bad = ~((importance >= 0) & np.isfinite(importance))
    if bad.any():
        first = int(bad.argmax())
        found = f"{bad.sum():,} are not, the first, {importance[first]}, in column {first:,}"
        raise GGUFError(f"importance must be finite and not negative: {found}.")
    return importance


def odd_ones(weights: np.ndarray) -> str:
    """Say how many weights are NaN or infinite as float32, and where the first is."""
    count, first = 0, -1
    flat = weights.reshape(-1)
    for start in range(0, len(flat), CHUNK):
        bad = ~np.isfinite(flat[start : start + CHUNK].astype(np.float32))
        if first < 0 and bad.any():
            first = start + int(bad.argmax())
        count += int(bad.sum())
    at = ", ".join(str(int(i)) for i in np.unravel_index(first, weights.shape))
    return f"{count:,} of {weights.size:,} are NaN or infinite, the first, {flat[first]}, at [{at}]."


def quantize_q8_0(weights: np.ndarray) -> np.ndarray:  # (..., columns) float32, columns a multiple of 32 -> (nbytes,) uint8
    """Quantize to Q8_0; errors as in `quantize`."""
    return quantize(weights, BLOCK_TYPES["Q8_0"])
