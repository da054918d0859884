"""Weights that are quantized for the record, and what an error counts: for the recorder and for the test alike.

Draws come from the raw stream of a PCG64 bit generator and exact arithmetic (+ - / and square roots), so they are the same in
every version of NumPy and on every machine. The measures are ggml's own (ggml-quants.c), in float64.
"""

import math

import numpy as np

EXACT = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4")  # without importance these must be ggml's, byte for byte
SEARCHED = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL")
WITH_IMPORTANCE = (*SEARCHED, "Q4_0", "Q4_1", "Q5_0", "Q5_1")
BLOCK = {"Q2_K": 256, "Q3_K": 256, "Q4_K": 256, "Q5_K": 256, "Q6_K": 256}  # others: 32
SHAPE = (24, 512)
HEAVY = 10


def uniform(seed, *size):  # -> float64 between 0 and 1, neither of them
    bits = np.random.PCG64(seed).random_raw(math.prod(size)) >> np.uint64(12)
    return ((bits.astype(np.float64) + 0.5) / 2**52).reshape(size)


def bell(seed, *size):  # -> float64, nearly normal
    return sum(uniform(seed + i, *size) for i in range(4)) - 2


def draws():  # -> {name: float32 array}
    """Make a few kinds of weights, from nearly normal to tails without a variance."""
    sign = np.where(uniform(1, *SHAPE) < 0.5, -1, 1)
    outliers = bell(10, *SHAPE)
    outliers[:, [3, 97, 256, 400]] *= 20
    found = {
        "bell": bell(20, *SHAPE) / 40,
        "outlier columns": outliers / 40,
        "all positive": uniform(30, *SHAPE) / 8,
        "shifted": (bell(40, *SHAPE) + 1) / 40,
        "rows of many sizes": bell(50, *SHAPE) / np.exp2(np.arange(SHAPE[0]))[:, None],
        "heavy tails": sign * (1 / np.sqrt(uniform(60, *SHAPE)) - 1) / 100,
        "heavier tails": sign * (1 / uniform(70, *SHAPE) - 1) / 100,
    }
    return {name: array.astype(np.float32) for name, array in found.items()}


def heavy_draws():  # -> {name: float32 array}
    """Make sets in which a few blocks have a weight that outweighs all others: t(2), and Cauchy's tail. Half a set each."""
    found = {}
    for i in range(HEAVY):
        u, v = uniform(1000 + i, 12, 512), uniform(2000 + i, 12, 512)
        sign = np.where(uniform(3000 + i, 12, 512) < 0.5, -1, 1)
        found[f"t(2) {i}"] = ((2 * u - 1) / np.sqrt(2 * u * (1 - u)) / 40).astype(np.float32)  # its quantiles
        found[f"Cauchy's tail {i}"] = (sign * (1 / v - 1) / 100).astype(np.float32)
    return found


def zeros():  # -> (4, 256) float32: 0 and -0 in turns, beginning with either, alone and beside larger weights
    found = np.zeros((4, 256))
    found[0, ::2] = found[1, 1::2] = found[2] = found[3, ::2] = -0.0
    found[3, 5::32] = 1
    return found.astype(np.float32)


def importance(columns, all_used=False):  # -> (columns,) float32: heavy-tailed; a few columns never used, or none
    found = 1 / uniform(80, columns) - 1
    found[:: columns // 7] = 1 if all_used else 0
    return found.astype(np.float32)


def measure(type, x, importance=None):  # (rows, columns) float32, (columns,) or None -> as x, float64
    """Weigh an error of each weight as ggml's search for this type does."""
    x = x.astype(np.float64)
    if importance is None:
        if type == "Q2_K":
            return np.abs(x)
        if type in ("Q4_K", "Q5_K"):
            groups = x.reshape(-1, 32)
            return (np.sqrt(np.mean(groups**2, axis=1, keepdims=True)) + np.abs(groups)).reshape(x.shape)
        return x * x
    if type == "Q6_K":
        return np.broadcast_to(importance.astype(np.float64), x.shape)
    whole_row = type in ("Q4_0", "Q4_1", "Q5_0", "Q5_1")
    blocks = x if whole_row else x.reshape(-1, BLOCK.get(type, 32))
    variance = np.mean(blocks**2, axis=1, keepdims=True) * (1 if whole_row or type == "Q2_K" else 2)
    return importance * np.sqrt(variance + blocks**2).reshape(x.shape)


def errors(type, x, decoded, importance=None):  # -> {measure: float}
    """Sum up the errors. `By block` each block counts the same: its error is measured in its own sum of squares."""
    off, weight = decoded.astype(np.float64) - x, measure(type, x, importance)
    found = {"weighted": float(np.sum(weight * off**2))}
    if importance is None:
        found["plain"] = float(np.sum(off**2))
        for name, w in (("weighted, by block", weight), ("plain, by block", np.ones_like(off))):
            whole, lost = (np.sum((w * a.astype(np.float64) ** 2).reshape(-1, BLOCK.get(type, 32)), axis=1) for a in (x, off))
            found[name] = float(np.mean(lost[whole > 0] / whole[whole > 0]))
    return found


def samples(matrices):  # {name: array} -> [(name, array)]
    """Of a model's matrices, the first rows of one of each kind in the middle of it."""
    kinds = {}
    for name, matrix in matrices.items():
        kinds.setdefault(name.split(".")[-2], []).append((name, matrix))
    chosen = [found[len(found) // 2] for found in kinds.values()]
    return [(name, np.asarray(matrix[:48], np.float32)) for name, matrix in chosen if matrix.shape[1] % 256 == 0]
