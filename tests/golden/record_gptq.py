"""Record what llm-compressor's GPTQ makes of matrices: codes on a grid that is given, and its errors on grids of its own.

    pip install llmcompressor torch      (an environment of its own; the tests never import them)
    PYTHONPATH=. python tests/golden/record_gptq.py [OUT.npz]

"codes": drawn matrices on the affine grid that spans each group, scale and minimum rounded to float16, as this project's files
keep it. The library's zero point is then a fraction, which its arithmetic allows. "own": matrices of tiny, on the library's own
grids (min and max of a group, a whole zero point), in two orders of columns. There minillm says what flows in, and no more.
"""

import importlib.metadata
import pathlib
import sys

import gptq_draws as draws
import numpy as np
import torch
from compressed_tensors.quantization import ActivationOrdering, QuantizationArgs, QuantizationStrategy
from compressed_tensors.quantization.utils import calculate_qparams
from llmcompressor.modifiers.gptq.gptq_quantize import quantize_weight
from llmcompressor.modifiers.gptq.helpers import accumulate_hessian, make_empty_hessian

ORDERS = {"as they come": None, "act-order": ActivationOrdering.WEIGHT}  # "weight": groups stay where they are


def args(bits, group, order):
    return QuantizationArgs(
        num_bits=bits, type="int", symmetric=False, strategy=QuantizationStrategy.GROUP, group_size=group, actorder=order
    )


def library(weights, inputs, scale, zero, how):  # -> (rows, columns) float32, dequantized
    module = torch.nn.Linear(weights.shape[1], weights.shape[0], bias=False)
    module.weight.data = torch.from_numpy(weights)
    hessian, samples = accumulate_hessian(torch.from_numpy(inputs), module, make_empty_hessian(module), torch.zeros(()))
    found, _, fell_back = quantize_weight(
        torch.from_numpy(weights.copy())[None], (hessian / samples)[None], scale[None], zero[None], None, how
    )
    assert not fell_back.any()
    return found[0].numpy()


def on_a_given_grid(seed, bits, order):  # -> codes (rows, columns) uint8
    weights, inputs = draws.draw(seed)
    groups = weights.reshape(len(weights), -1, draws.GROUP)
    low, high = groups.min(axis=2), groups.max(axis=2)
    scale = ((high - low) / np.float32(2**bits - 1)).astype(np.float16).astype(np.float32)
    low = low.astype(np.float16).astype(np.float32)
    zero = -(2 ** (bits - 1)) - low.astype(np.float64) / scale
    dense = library(weights, inputs, torch.from_numpy(scale), torch.from_numpy(zero.astype(np.float32)),
                    args(bits, draws.GROUP, order))  # fmt: skip
    codes = np.rint((dense.reshape(groups.shape) - low[:, :, None]) / scale[:, :, None])
    assert codes.min() >= 0 and codes.max() < 2**bits
    return codes.reshape(weights.shape).astype(np.uint8)


def on_its_own_grid(weights, inputs, bits, order):  # -> ‖(W - Ŵ)X‖² / ‖WX‖²
    how = args(bits, 64, order)
    groups = torch.from_numpy(weights).reshape(len(weights), -1, 64)
    scale, zero = calculate_qparams(groups.amin(dim=2), groups.amax(dim=2), how)
    return draws.lost(weights, library(weights, inputs, scale, zero, how), inputs)


def record():
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("llmcompressor", "compressed-tensors", "torch")]
    found = {"version": np.array(", ".join(versions))}
    for seed in (1, 2):
        for bits in (2, 3, 4, 8):
            found[f"codes {seed} {bits}"] = on_a_given_grid(seed, bits, ORDERS["act-order"])
    matrices = draws.tiny()
    found["names"] = np.array([name for name, *_ in matrices])
    for bits, order in draws.OWN:
        found[f"own {bits} {order}"] = np.array([on_its_own_grid(w, x, bits, ORDERS[order]) for _, w, x in matrices])
    return found


if __name__ == "__main__":
    out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).with_name("gptq.npz"))
    np.savez_compressed(out, **record())
