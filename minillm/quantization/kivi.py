"""KIVI: keys in 2 or 4 bits, each channel on a grid of its own; values token by token; the newest tokens in full.

Keys of real models have outlier channels: the same few components are large in every token. Per token they set the step of all
others. Along a channel, over the tokens of a group, numbers are alike, whatever their size:

                 channel 0   1   2   3                 per token    a row has one scale: its outlier's
    token 0          .1  9.1 -.2  .1                   per channel  a column has one: that of 9.1 … 8.7 is small
    token 1          .2  8.7  .1 -.1
       …                                               values have no such channels, and are mixed token by token

A channel's scale is known only once the group is full. So a group of 32 tokens is *sealed* then, and not before: a query sees
the tokens of its own group in full (float16), and all groups before it as sealed. Which those are depends on positions alone.

Layout. Both are rows of bytes, one for each token and head, so that pages carry them as they carry numbers:

    values    codes of the token (d · bits / 8), then its scale and minimum, float16
    keys      codes of the token (d · bits / 8), then bytes t · d/8 … of the group's d scales and d minima, for token t of 32

Liu et al. 2024, arXiv:2402.02750 (KIVI).
"""

from dataclasses import dataclass

import numpy as np
from numpy import ndarray as Array

from minillm.errors import MiniLLMError
from minillm.quantization.affine import as_half
from minillm.quantization.bits import pack_bits, unpack_bits
from minillm.quantization.kv_formats import HALF, joined, never_zero, taken_apart

GROUP = 32  # tokens that share the scales of their keys


def per_channel(keys: Array, bits: int) -> tuple[Array, Array, Array]:
    """Quantize the keys of a group: each channel of each head on a grid from its smallest number to its largest.

    (tokens, heads, d) float32 -> codes (tokens, heads, d) uint8, scales and minima (heads, d) float32. x ≈ scale · code + minimum
    Scale and minimum are float16, rounded before the codes are chosen; a constant channel has scale 0 and codes 0.
    """
    top = np.float32(2**bits - 1)
    # BEGIN SOLUTION ex=08.4
    lowest, highest = keys.min(axis=0), keys.max(axis=0)
    scales, minima = as_half((highest - lowest) / top), as_half(lowest)
    codes = np.clip(np.rint((keys - minima) / never_zero(scales)), 0, top)
    # END SOLUTION
    return codes.astype(np.uint8), scales, minima


def per_token(values: Array, bits: int) -> tuple[Array, Array, Array]:
    """(tokens, heads, d) float32 -> codes (tokens, heads, d) uint8, scales and minima (tokens, heads, 1) float32

    Quantize values: each token of each head on a grid of its own.
    """
    top = np.float32(2**bits - 1)
    lowest, highest = values.min(axis=2, keepdims=True), values.max(axis=2, keepdims=True)
    scales, minima = as_half((highest - lowest) / top), as_half(lowest)
    codes = np.clip(np.rint((values - minima) / never_zero(scales)), 0, top)
    return codes.astype(np.uint8), scales, minima


@dataclass(frozen=True, slots=True)
class KiviFormat:
    """KIVI at so many bits. Errors: MiniLLMError for heads that are no multiple of 8, and beyond float16's range."""

    name: str
    bits: int
    number: int = 0  # kernels do not know it

    def widths(self, d: int) -> tuple[int, int]:
        """Count the bytes of a row of keys, and of a row of values."""
        if d < 1 or d % 8:
            raise MiniLLMError(f"{self.name} cuts a group's scales into {GROUP} rows: heads need a multiple of 8, found {d:,}.")
        return d * (self.bits + 1) // 8, d * self.bits // 8 + 4

    def encode_keys(self, keys: Array) -> Array:  # (groups · 32, heads, d) float32 -> (groups · 32, heads, width) uint8
        """Seal the keys of whole groups."""
        return np.concatenate([self.encode_group(keys[i : i + GROUP]) for i in range(0, len(keys), GROUP)])

    def encode_group(self, keys: Array) -> Array:  # (32, heads, d) float32 -> (32, heads, width) uint8
        codes, scales, minima = per_channel(keys, self.bits)
        halves = np.concatenate([scales, minima], axis=1).astype(HALF).view(np.uint8)  # (heads, 4 · d) bytes
        cut = halves.reshape(len(halves), GROUP, -1).transpose(1, 0, 2)  # (32, heads, d / 8)
        return np.concatenate([self.pack(codes), cut], axis=2)

    def decode_keys(self, rows: Array) -> Array:  # (groups · 32, heads, width) uint8 -> (groups · 32, heads, d) float32
        """Dequantize the keys of whole groups."""
        n, heads, width = rows.shape
        d = 8 * width // (self.bits + 1)
        codes = self.unpack(rows[:, :, : d * self.bits // 8], d).reshape(n // GROUP, GROUP, heads, d)
        cut = rows[:, :, d * self.bits // 8 :].reshape(n // GROUP, GROUP, heads, d // 8).transpose(0, 2, 1, 3)
        halves = np.ascontiguousarray(cut).reshape(n // GROUP, 1, heads, 4 * d).view(HALF).astype(np.float32)
        return (codes * halves[..., :d] + halves[..., d:]).reshape(n, heads, d)

    def encode_values(self, values: Array) -> Array:  # (n, heads, d) float32 -> (n, heads, width) uint8
        """Quantize values, each token for itself."""
        codes, scales, minima = per_token(values, self.bits)
        return joined(self.pack(codes), scales, minima)

    def decode_values(self, rows: Array) -> Array:  # (n, heads, width) uint8 -> (n, heads, d) float32
        """Dequantize values."""
        packed, scales, minima = taken_apart(rows, 2)
        return self.unpack(packed, packed.shape[2] * 8 // self.bits) * scales + minima

    def pack(self, codes: Array) -> Array:  # (n, heads, d) uint8 -> (n, heads, d · bits / 8) uint8
        n, heads, d = codes.shape
        return pack_bits(codes.reshape(-1, d), self.bits).reshape(n, heads, -1)

    def unpack(self, packed: Array, d: int) -> Array:  # (n, heads, d · bits / 8) uint8 -> (n, heads, d) uint8
        n, heads, nbytes = packed.shape
        return unpack_bits(np.ascontiguousarray(packed).reshape(-1, nbytes), self.bits, d).reshape(n, heads, d)


KIVI = {made.name: made for made in (KiviFormat("kivi2", 2), KiviFormat("kivi4", 4))}
