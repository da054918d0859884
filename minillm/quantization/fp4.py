"""FP4: a float of four bits, e2m1, and the three ways of scaling blocks of it.

One bit of sign, two of exponent, one of mantissa: eight magnitudes, dense near 0, twice as far apart with each power of two.

    S EE M       0  0.5  1  1.5  2    3    4         6           E > 0: ± (2 + M) · 2^(E-2)      E = 0: ± M / 2

A block shares a scale that puts its weights below 6. The larger the block, the cheaper the scale, and the coarser the small
weights beside a large one; and a scale has bits of its own to lose:

             block   scale of a block                    bits a weight
    FP4        64    float16                             4 + 16/64 = 4.25    as QLoRA compares it with NF4
    MXFP4      32    a power of two, one byte (E8M0)     4 +  8/32 = 4.25    what lies above 6 loses up to a quarter
    NVFP4      16    e4m3 (fp8.py), one byte             4 +  8/16 = 4.5     and one float32 for the tensor, without which small
                                                                             scales would fade to 0 in e4m3

OCP Microscaling Formats 1.0 (2023), 5.3; NVIDIA, "Introducing NVFP4" (2025); Dettmers et al. 2023, arXiv:2305.14314, table 2.
"""

from dataclasses import dataclass

import numpy as np

from minillm.errors import MiniLLMError
from minillm.quantization.affine import as_half, checked
from minillm.quantization.fp8 import LARGEST as E4M3_LARGEST
from minillm.quantization.fp8 import round_e4m3

E2M1 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)  # doubled, so that they are integers
LEVELS = E2M1.astype(np.float32) / 2
LARGEST = 6.0
BLOCK, MX_BLOCK, NV_BLOCK = 64, 32, 16


@dataclass(frozen=True, slots=True)
class FP4Matrix:
    """A matrix in FP4: w = scale · scales[row, block] · level[code].

    codes (rows, columns) uint8, 0 … 15; scales (rows, blocks) float32, numbers that the stored scale has; scale: of the tensor.
    scale_bits: how many a block's scale takes when it is stored.
    """

    codes: np.ndarray
    scales: np.ndarray
    scale_bits: int
    scale: np.float32 = np.float32(1)

    @property
    def bits_per_weight(self) -> float:
        """Bits of a weight with its share of the block's scale; the tensor's one is not worth counting."""
        return 4 + self.scale_bits * self.scales.size / self.codes.size

    def dense(self) -> np.ndarray:  # -> (rows, columns) float32
        """Dequantize into a new array."""
        levels = LEVELS[self.codes].reshape(*self.scales.shape, -1)
        return (levels * (self.scale * self.scales)[:, :, None]).reshape(self.codes.shape)


def quantize_fp4(weights: np.ndarray, block: int = BLOCK) -> FP4Matrix:  # (rows, columns)
    """Quantize with a float16 scale a block: its largest magnitude becomes 6. MiniLLMError as blocks_of and as_half."""
    blocks = blocks_of(weights, block)
    scales = as_half(np.abs(blocks).max(axis=2) / np.float32(LARGEST))
    return FP4Matrix(encode_e2m1(blocks, scales).reshape(len(blocks), -1), scales, 16)


def quantize_mxfp4(weights: np.ndarray, block: int = MX_BLOCK) -> FP4Matrix:  # (rows, columns)
    """Quantize with a power of two a block: the largest magnitude comes to lie in 4 … 8, and what is above 6 becomes 6."""
    blocks = blocks_of(weights, block)
    scales = np.ldexp(np.float32(1), e8m0(np.abs(blocks).max(axis=2)).astype(np.int32) - 127)
    return FP4Matrix(encode_e2m1(blocks, scales).reshape(len(blocks), -1), scales, 8)


def quantize_nvfp4(weights: np.ndarray, block: int = NV_BLOCK) -> FP4Matrix:  # (rows, columns)
    """Quantize with two scales: the tensor's puts the largest block's scale at 448, where e4m3 ends.

    So the scales of blocks whose weights are 28,672 times smaller than the largest are still normal numbers of e4m3.
    """
    blocks = blocks_of(weights, block)
    wanted = np.abs(blocks).max(axis=2) / np.float32(LARGEST)
    scale = np.maximum(wanted.max() / np.float32(E4M3_LARGEST), np.finfo(np.float32).tiny)  # of zeros: any will do
    scales = round_e4m3(wanted / scale)
    return FP4Matrix(encode_e2m1(blocks, scale * scales).reshape(len(blocks), -1), scales, 8, np.float32(scale))


def encode_e2m1(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:  # (..., n), (...) float32 -> (..., n) uint8
    """Choose the code of the nearest float, times its block's scale; in the middle between two the smaller. Above 6 it is 6.

    A block with scale 0 has codes 0. A negative weight that becomes 0 is code 0: there is no need for two zeros.
    """
    magnitude, scales = np.abs(blocks), scales[..., None]
    codes = np.zeros(blocks.shape, np.uint8)
    for lower, upper in zip(LEVELS[:7], LEVELS[1:8], strict=True):
        codes += magnitude > (lower + upper) / 2 * scales
    codes = np.where(scales > 0, codes, np.uint8(0))
    return codes | ((blocks < 0) & (codes > 0)).astype(np.uint8) << 3


def e8m0(largest: np.ndarray) -> np.ndarray:  # (...) float32, the largest magnitude of each block -> (...) uint8
    """Choose a power of two, 2^(code - 127): the exponent of the largest weight becomes that of 4, the largest float's."""
    with np.errstate(divide="ignore"):
        exponent = np.floor(np.log2(largest.astype(np.float64)).astype(np.float32)) - 2 + 127  # float32's log2, as in C
    return np.where(largest > 0, np.maximum(exponent, 0), 0).astype(np.uint8)


def blocks_of(weights: np.ndarray, block: int) -> np.ndarray:  # (rows, columns) -> (rows, blocks, block) float32
    """Cut rows into blocks. MiniLLMError for other than two axes, NaN and infinity, and blocks that do not fill a row."""
    weights = checked(weights)
    if left := weights.shape[1] % block:
        raise MiniLLMError(f"blocks of {block} weights do not fill rows of {weights.shape[1]:,}: {left} are left over.")
    return weights.reshape(len(weights), -1, block)
