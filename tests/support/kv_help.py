"""Quantized keys and values for the tests of lesson 08: KIVI's slow oracle; what a cache must show, from positions alone."""

import struct

import numpy as np

from minillm.quantization.kivi import KIVI
from minillm.quantization.kv_formats import FORMATS

G = 32
QUANTIZED = [*FORMATS, *KIVI]


def half(value):  # the nearest float16
    return struct.unpack("<e", struct.pack("<e", value))[0]


def f32(value):  # the nearest float32
    return struct.unpack("<f", struct.pack("<f", value))[0]


def grid(values, bits):  # [float] -> scale, minimum, codes: all in Python's own arithmetic
    """Span them with 2^bits steps; scale and minimum as float16 holds them."""
    top = 2**bits - 1
    scale, minimum = half(f32((f32(max(values)) - f32(min(values))) / top)), half(min(values))
    return scale, minimum, [0 if scale == 0 else min(max(round(f32(f32(v - minimum) / scale)), 0), top) for v in values]


def sealed_keys(keys, bits):  # (32, heads, d) -> (32, heads, d): each channel of each head by itself
    out = np.empty(keys.shape, np.float32)
    for h in range(keys.shape[1]):
        for c in range(keys.shape[2]):
            scale, minimum, codes = grid([float(x) for x in keys[:, h, c]], bits)
            out[:, h, c] = [f32(scale * code + minimum) for code in codes]
    return out


def sealed_values(values, bits):  # (n, heads, d) -> (n, heads, d): each token of each head by itself
    out = np.empty(values.shape, np.float32)
    for t in range(len(values)):
        for h in range(values.shape[1]):
            scale, minimum, codes = grid([float(x) for x in values[t, h]], bits)
            out[t, h] = [f32(scale * code + minimum) for code in codes]
    return out


def seen(name, k, v, position):  # (n, heads, d) float32 twice, n > position -> what the query at `position` sees of both
    """From positions alone, with nothing of the cache under test."""
    if name in KIVI:
        bits, own = KIVI[name].bits, position // G * G
        k, v = (x[: position + 1].astype(np.float16).astype(np.float32) for x in (k, v))
        keys = [sealed_keys(k[a : a + G], bits) for a in range(0, own, G)]
        return np.concatenate([*keys, k[own:]]), np.concatenate([sealed_values(v[:own], bits), v[own:]])
    made = FORMATS[name]
    return tuple(made.rotate(made.decode(made.encode(x[: position + 1]))) for x in (k, v))
