"""Blocks of our own types, for tests: sizes by formula, random bytes, and their weights by plain whole numbers of Python.

The gguf package knows nothing of them, so this is the oracle: | scale: float16 | minimum: float16 | codes |, the codes one long
number of which the first has the lowest bits. NF4 has no minimum, and its codes number levels.
"""

from functools import cache

import numpy as np
from gguf_bytes import STRING, build, entry, string, tensor

from minillm.quantization.nf4 import nf4_levels

GRIDS = {f"INT{bits}_G{group}": (bits, group) for bits in (2, 3, 4, 8) for group in (32, 64, 128) if (bits, group) != (4, 32)}
OURS = ("NF4", *GRIDS)  # these stay packed on Numba
UNPACKED = ("FP8_E4M3",)  # and this one becomes floats there: a byte is a weight


def sizes(name):  # -> weights of a block, its bytes, where float16 numbers lie
    if name in UNPACKED:
        return 1, 1, ()
    if name == "NF4":
        return 64, 2 + 32, (0,)
    bits, group = GRIDS[name]
    return group, 4 + group * bits // 8, (0, 2)


def number_of(name):  # in a file
    own = {"NF4": 4, "FP8_E4M3": 8}
    return 0x6D6C0000 + (own[name] if name in own else 256 * GRIDS[name][0] + GRIDS[name][1])


def random_ours(name, shape, rng, finite=True):  # -> (rows, bytes of a row) uint8
    """Blocks of random bytes. finite: with scales and minima of about 1/100, otherwise whatever comes."""
    weights, nbytes, halves = sizes(name)
    blocks = rng.integers(0, 256, (int(np.prod(shape)) // weights, nbytes), dtype=np.uint8)
    for at in halves if finite else ():
        blocks[:, at : at + 2] = rng.normal(0, 0.01, (len(blocks), 1)).astype("<f2").view(np.uint8)
    return blocks.reshape(*shape[:-1], -1)


@cache
def parts_of(name, block):  # bytes of a block -> scale, minimum, codes
    weights, _, halves = sizes(name)
    scale, minimum = (np.frombuffer(block, "<f2", 1, at).astype(np.float32)[0] for at in (0, halves[-1]))
    codes, bits = int.from_bytes(block[2 * len(halves) :], "little"), 4 if name == "NF4" else GRIDS[name][0]
    return scale, minimum, [codes >> bits * i & (1 << bits) - 1 for i in range(weights)]


def values_of_ours(name, raw, shape):  # uint8 -> shape, float32
    """Decode, one weight after another: w = scale · code + minimum, or scale · level, each operation rounded to float32."""
    nbytes, out, levels = sizes(name)[1], [], nf4_levels()
    with np.errstate(all="ignore"):
        for block in np.ascontiguousarray(raw).reshape(-1, nbytes):
            scale, minimum, codes = parts_of(name, block.tobytes())
            if name == "NF4":
                out += [scale * levels[code] for code in codes]
            else:
                out += [scale * np.float32(code) + minimum for code in codes]
    return np.array(out, np.float32).reshape(shape)


def write_blocks(path, name, raw, shape):  # -> path: a file with one tensor of such a type, "w"
    head = build([entry("general.architecture", STRING, string("llama"))], [tensor("w", shape[::-1], number_of(name))], data=0)
    path.write_bytes(head + np.ascontiguousarray(raw).tobytes())
    return path
