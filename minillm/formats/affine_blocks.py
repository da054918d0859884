"""Block types of our own: the affine grid of `quantization/affine.py`, and NF4, as bytes of a GGUF file.

ggml has no type for the grids that GPTQ, AWQ and HQQ write. Ours lie in the same file, under type numbers that ggml is far from
using: whoever does not know them can list such a tensor, and refuses to run it. Where a grid is one of ggml's, 4 bits in groups
of 32, it is written as that type (Q4_1), and llama.cpp runs it.

    INT3_G64     | d: 2 | m: 2 | codes: 64 × 3 bits |      w = d · code + m       bits.py says how codes lie
    NF4          | d: 2 | codes: 64 × 4 bits |             w = d · level[code]    nf4.py has the levels
"""

import numpy as np

from minillm.formats.packing import Importance, Parts, half, to_half
from minillm.quantization.affine import BITS, AffineMatrix, Grid, as_half, round_to_nearest
from minillm.quantization.bits import pack_bits, packed_bytes, unpack_bits
from minillm.quantization.nf4 import BLOCK, nearest, nf4_levels

GROUPS = (32, 64, 128)
OURS = 0x6D6C0000  # "ml": numbers of our types begin here
AFFINE = [(bits, group) for bits in BITS for group in GROUPS if (bits, group) != (4, 32)]  # grids that ggml has no type for


def affine_id(bits: int, group: int) -> int:
    return OURS + (bits << 8) + group


def affine_name(bits: int, group: int) -> str:  # 4, 64 -> "INT4_G64"
    """Name the type that holds a grid; for 4 bits in groups of 32 it is ggml's."""
    return "Q4_1" if (bits, group) == (4, 32) else f"INT{bits}_G{group}"


def affine_bytes(bits: int, group: int) -> int:
    return 4 + packed_bytes(group, bits)


def affine_parts(bits: int, group: int, blocks: np.ndarray) -> Parts:
    """Take blocks apart: codes, scales, and minima as combine() takes them, with the sign turned."""
    return unpack_bits(blocks[:, 4:], bits, group), half(blocks[:, 0:2]), -half(blocks[:, 2:4])


def pack_affine(matrix: AffineMatrix) -> np.ndarray:  # -> (blocks, bytes) uint8
    """Lay a quantized matrix out as blocks of its type."""
    grid = matrix.grid
    codes = matrix.codes.reshape(-1, matrix.codes.size // matrix.scales.size)
    if affine_name(grid.bits, codes.shape[1]) == "Q4_1":
        packed = codes[:, :16] | codes[:, 16:] << 4
    else:
        packed = pack_bits(codes, grid.bits)
    return np.concatenate([to_half(matrix.scales), to_half(matrix.minima), packed], axis=1)


def pack_nearest(bits: int, group: int, rows: np.ndarray, importance: Importance = None) -> np.ndarray:
    """Encode by rounding to nearest. Importance changes nothing: the range of a group is not searched."""
    return pack_affine(round_to_nearest(rows, Grid(bits, group)))


def nf4_parts(blocks: np.ndarray) -> Parts:
    """Take blocks of NF4 apart: codes, which number the levels, and scales; there is no minimum."""
    return unpack_bits(blocks[:, 2:], 4, BLOCK), half(blocks[:, 0:2]), None


def nf4(blocks: np.ndarray, out: np.ndarray) -> None:
    """| d: 2 | codes: 32 bytes |   w = d · level[code], the levels from -1 to 1"""
    codes, d, _ = nf4_parts(blocks)
    out[:] = nf4_levels()[codes]
    out *= d


def pack_nf4(rows: np.ndarray, importance: Importance = None) -> np.ndarray:  # (n, columns) float32 -> (blocks, 34) uint8
    """Encode NF4: the largest magnitude of a block becomes -1 or 1. Importance changes nothing."""
    weights = rows.reshape(-1, BLOCK)
    d = as_half(np.abs(weights).max(axis=1, keepdims=True))
    codes = nearest(weights / np.where(d == 0, np.float32(1), d))
    return np.concatenate([to_half(d), pack_bits(codes, 4)], axis=1)
