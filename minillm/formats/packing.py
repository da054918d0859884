"""Bits into bytes and back: the few ways in which block types lay out small integers.

A file has no 4-bit numbers, only bytes; so two integers share a byte, or four, or eight. Which two decides how fast a
processor takes them apart: the same shift and mask must serve a whole register. Hence the layout in *planes*: byte j of a
run holds the integers j, j + run, j + 2 · run, ... of a block, one above the other, and one shift of the run yields `run` of
them in order. Every function here has its inverse beside it.

    run of 16 bytes, shifts 0 and 4:        byte j = q[j] | q[j + 16] << 4

Layouts: ggml's quants (`ggml-common.h`, `ggml-quants.c`).
"""

from collections.abc import Iterator, Sequence

import numpy as np

Parts = tuple[np.ndarray, np.ndarray, np.ndarray | None]  # (n, weights) ints, (n, groups) scales, (n, groups) minimums
NIBBLES = (0, 4)  # of a run of 16 bytes: byte j holds weight j in its low four bits and weight j + 16 in its high ones
Importance = np.ndarray | None  # (columns,) float32: what an error in a column counts, the mean square of its input


def half(two_bytes: np.ndarray) -> np.ndarray:  # (n, 2) uint8 -> (n, 1) float32
    """Decode a float16 per block, as a column to multiply with."""
    return np.ascontiguousarray(two_bytes).view("<f2").astype(np.float32)


def as_half(values: np.ndarray) -> np.ndarray:  # float32 -> float32
    """Round to what float16 holds, the nearest. Raises OverflowError beyond 65,504."""
    with np.errstate(over="ignore"):
        found = values.astype(np.float16).astype(np.float32)
    if not np.isfinite(found).all():
        raise OverflowError
    return found


def around(values: np.ndarray) -> Iterator[np.ndarray]:
    """Give the nearest float16 numbers, then their neighbours above and below; what is beyond float16 comes as infinity."""
    near = values.astype(np.float16)
    for number in (near, np.nextafter(near, np.float16(np.inf)), np.nextafter(near, np.float16(-np.inf))):
        yield number.astype(np.float32)


def to_half(values: np.ndarray) -> np.ndarray:  # n float32 -> (n, 2) uint8
    """Encode a float16 per block, the inverse of `half`. Raises OverflowError beyond 65,504."""
    return np.ascontiguousarray(as_half(values)).astype("<f2").reshape(-1, 1).view(np.uint8)


def spread(packed: np.ndarray) -> np.ndarray:  # (n, bytes) uint8 -> (n, 8 · bytes) uint8 of 0 and 1
    """Unpack single bits, lowest of each byte first."""
    return np.unpackbits(np.ascontiguousarray(packed), axis=1, bitorder="little")


def gather(bits: np.ndarray) -> np.ndarray:  # (n, 8 · bytes) uint8 of 0 and 1 -> (n, bytes) uint8
    """Pack single bits, the inverse of `spread`."""
    return np.packbits(bits, axis=1, bitorder="little")


def planes(  # (n, bytes) uint8 -> (n, weights) uint8
    packed: np.ndarray, run: int, shifts: Sequence[int], mask: int
) -> np.ndarray:
    """Unpack runs of bytes, each read several times: once per shift, for the bits under the mask.

    Bytes 0..31 with shifts 0, 4 give weights 0..31 (low bits), then 32..63 (high bits); then the next run of bytes.
    """
    n = len(packed)
    runs = packed.reshape(n, -1, 1, run) >> np.array(shifts, np.uint8)[:, None]
    return (runs & np.uint8(mask)).reshape(n, -1)


def pack_planes(  # (n, weights) uint8 -> (n, bytes) uint8
    q: np.ndarray, run: int, shifts: Sequence[int]
) -> np.ndarray:
    """Pack integers into runs of bytes, the inverse of `planes`. Each must fit between its shift and the next."""
    n = len(q)
    lifted = q.reshape(n, -1, len(shifts), run) << np.array(shifts, np.uint8)[:, None]
    return np.bitwise_or.reduce(lifted, axis=2).reshape(n, -1)


def six_bit_scales(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # (n, 12) uint8 -> (n, 8), (n, 8) uint8
    """Unpack eight scales and eight minima of 6 bits from 12 bytes, as Q4_K and Q5_K keep them.

    byte       0..3                  4..7                 8..11
    low bits   scale 0..3 (6 bits)   min 0..3 (6 bits)    scale 4..7, low 4 | min 4..7, low 4
    top bits   scale 4..7, upper 2   min 4..7, upper 2
    """
    # BEGIN SOLUTION ex=09.4
    a, b, c = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scale = np.concatenate([a & 63, (c & 15) | ((a >> 6) << 4)], axis=1)
    minimum = np.concatenate([b & 63, (c >> 4) | ((b >> 6) << 4)], axis=1)
    # END SOLUTION
    return scale, minimum


def pack_six_bit_scales(scale: np.ndarray, minimum: np.ndarray) -> np.ndarray:  # (n, 8), (n, 8) uint8, 0..63 -> (n, 12) uint8
    """Pack eight scales and eight minima, the inverse of `six_bit_scales`; its table says what lies where."""
    a = scale[:, :4] | (scale[:, 4:] >> 4) << 6
    b = minimum[:, :4] | (minimum[:, 4:] >> 4) << 6
    c = scale[:, 4:] & 15 | minimum[:, 4:] << 4
    return np.concatenate([a, b, c], axis=1)
