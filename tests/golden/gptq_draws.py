"""Matrices and inputs for GPTQ, of a PCG64 generator and of tiny: what both the recorder and the test quantize.

Inputs share a few hidden factors, so that columns move together and one can make good another's error; some columns are larger
than the rest. Without that GPTQ would round as everybody does.
"""

import lzma
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
SHAPE, TOKENS, GROUP = (24, 96), 512, 32
LAYERS, CONTEXT, CHUNKS = (0, 5), 128, 8  # of tiny, and of the text it reads

OWN = ((3, "as they come"), (4, "act-order"))  # bits and order on grids of one's own


def normal(bits, *shape):  # bit generator -> shape float64, nearly normal: sums of four uniform draws
    raw = bits.random_raw(int(np.prod(shape)))
    sums = sum((raw >> np.uint64(shift) & np.uint64(0xFFF)).astype(np.int64) for shift in (0, 13, 26, 39)) - 8190
    return (sums / 2**12 * 1.73).reshape(shape)


def draw(seed, shape=SHAPE, tokens=TOKENS):  # -> weights (rows, columns) float32, inputs (tokens, columns) float32
    bits = np.random.PCG64(seed)
    rows, columns = shape
    factors = normal(bits, tokens, columns // 4) @ normal(bits, columns // 4, columns) / np.sqrt(columns / 4)
    inputs = factors + 0.3 * normal(bits, tokens, columns)
    inputs[:, :: columns // 5] *= 8
    return (normal(bits, rows, columns) / 8).astype(np.float32), inputs.astype(np.float32)


def tiny():  # -> [(name of a matrix, its weights, its inputs (tokens, columns))]
    """Some matrices of tiny, and what flows into them while the float model reads stories."""
    from minillm import LLM
    from minillm.calibration.collect import chunks_of, collect
    from minillm.model.adapters import FIELDS

    llm = LLM("tiny", backend="numpy")
    text = lzma.decompress((ROOT / "data/corpus/morals.txt.xz").read_bytes()).decode()
    seen = {}
    collect(llm.transformer, chunks_of(llm.tokenizer, text, CONTEXT, CHUNKS), lambda name, x: seen.setdefault(name, []).append(x))
    layers = llm.transformer.weights.layers
    return [
        (name, getattr(layers[i], field), np.concatenate(seen[name]))
        for i in LAYERS for stem, field in FIELDS.items() if (name := f"blk.{i}.{stem}.weight")
    ]  # fmt: skip


def lost(weights, dense, inputs):  # ‖(W - Ŵ)X‖² / ‖WX‖², from the outputs themselves, in float64
    weights, dense, inputs = (np.asarray(a, np.float64) for a in (weights, dense, inputs))
    return float(np.square(inputs @ (weights - dense).T).sum() / np.square(inputs @ weights.T).sum())
