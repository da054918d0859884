"""Block types of small floats whose scales lie apart: FP8 with a scale a row, and ggml's NVFP4 with one for the tensor.

    FP8_E4M3   | code: 1 |                        w = scale[row] · e4m3(code)                          ours
    NVFP4      | d: 4 × 1 | codes: 4 × 8 bytes |  w = scale · d[j // 16] · float of the code           64 weights, ggml's type 40

A weight's bytes alone do not say what it is: beside `blk.3.attn_q.weight` the file has `blk.3.attn_q.scale`, a float32 tensor of
one number, or of one for each row. Where it is missing the scale is 1. That is llama.cpp's convention for NVFP4; FP8 follows it
here, as ggml has no such type. d is e4m3 without its sign; byte j of 8 holds the codes of weights j and j + 8 of sixteen. NumPy
runs both, unpacked to float32; Numba has no kernels for them, and says so.

Layout: ggml's quants (`ggml-common.h`, block_nvfp4); quantizers: quantization/fp4.py, quantization/fp8.py.
"""

from collections.abc import Callable

import numpy as np

from minillm.formats.packing import NIBBLES, Parts, pack_planes, planes
from minillm.quantization.affine import checked
from minillm.quantization.fp4 import E2M1, quantize_nvfp4
from minillm.quantization.fp8 import decode_e4m3, encode_e4m3, scale_of

E4M3 = decode_e4m3(np.arange(256, dtype=np.uint8))
UNSIGNED = np.where(np.arange(256) & 127 == 127, np.where(np.arange(256) < 128, 0, 480), np.abs(E4M3)).astype(np.float32)


def fp8(blocks: np.ndarray, out: np.ndarray) -> None:
    """| code: 1 |   e4m3, before the row's scale"""
    out[:] = E4M3[blocks]


def nvfp4(blocks: np.ndarray) -> Parts:
    """| d: 4 | codes: 32 bytes |   before the tensor's scale. Codes are read doubled, and d is halved for it."""
    return E2M1[planes(blocks[:, 4:], 8, NIBBLES, 15)], UNSIGNED[blocks[:, :4]] / 2, None


def pack_fp8(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # (rows, columns) -> bytes uint8, (rows,) float32
    """Encode FP8: the largest magnitude of each row becomes 448. MiniLLMError for what is no matrix of finite numbers."""
    weights = checked(weights)
    scale = scale_of(weights, axis=1)
    return encode_e4m3(weights / scale[:, None]), scale


def pack_nvfp4(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # (rows, columns) -> bytes uint8, (1,) float32
    """Encode NVFP4, blocks of 64 as ggml lays them. MiniLLMError as quantize_nvfp4, and where 64 do not fill a row."""
    matrix = quantize_nvfp4(weights)
    codes = pack_planes(matrix.codes.reshape(-1, 64), 8, NIBBLES)
    return np.concatenate([encode_e4m3(matrix.scales).reshape(-1, 4), codes], axis=1), matrix.scale.reshape(1)


SCALED: dict[str, Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]] = {"FP8_E4M3": pack_fp8, "NVFP4": pack_nvfp4}


def scale_name(name: str) -> str:  # "blk.3.attn_q.weight" -> "blk.3.attn_q.scale"
    """Name the tensor that a matrix's scales lie in."""
    return name.removesuffix(".weight") + ".scale"
