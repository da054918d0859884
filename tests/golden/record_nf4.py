"""Record what bitsandbytes makes of a matrix in NF4: its levels, codes, and scales with and without double quantization.

    python record_nf4.py [OUT.npz]

Needs torch (CPU) and bitsandbytes, which the tests never import; no minillm code runs here. Weights are integers over 2^15,
sums of four uniform draws, so nearly normal; one block is all zeros, one holds a single weight, one is a million times larger.
"""

import pathlib
import sys

import bitsandbytes
import numpy as np
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit

SHAPE, BLOCK = (24, 128), 64


def draw():  # -> SHAPE int16
    bits = np.random.PCG64(4).random_raw(SHAPE[0] * SHAPE[1])
    sums = sum((bits >> np.uint64(shift) & np.uint64(0xFFF)).astype(np.int64) for shift in (0, 13, 26, 39)) - 8190
    weights = sums.reshape(-1, BLOCK)
    weights[7] = 0
    weights[11] = 0
    weights[11, 5] = -321
    return weights.reshape(SHAPE).astype(np.int16)


def record():
    whole = draw()
    weights = torch.from_numpy(whole.astype(np.float32) / 2**15)
    weights.reshape(-1, BLOCK)[20] *= 1e6
    codes, state = quantize_4bit(weights, blocksize=BLOCK, quant_type="nf4")
    _, double = quantize_4bit(weights, blocksize=BLOCK, quant_type="nf4", compress_statistics=True)
    return {
        "version": np.array(f"bitsandbytes {bitsandbytes.__version__}, torch {torch.__version__}"),
        "weights": whole,
        "codes": codes.numpy().reshape(-1, BLOCK // 2),
        "levels": state.code.numpy(),
        "dense": dequantize_4bit(codes, state).numpy(),
        "dense_double": dequantize_4bit(codes, double).numpy(),
    }


if __name__ == "__main__":
    out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).with_name("nf4.npz"))
    np.savez_compressed(out, **record())
