"""Codes of a few bits side by side in bytes, with nothing between them.

    3 bits    byte 0  c2 c2 c1 c1 c1 c0 c0 c0      byte 1  c5 c4 c4 c4 c3 c3 c3 c2      byte 2  c7 c7 c7 c6 c6 c6 c5 c5

The first code has the lowest bits of the first byte, and one that does not fit ends in the next byte. A row begins a byte of its
own; what its last byte has left is zero.
"""

import numpy as np


def packed_bytes(count: int, bits: int) -> int:
    """Count the bytes of so many codes."""
    return -(-count * bits // 8)


def pack_bits(codes: np.ndarray, bits: int) -> np.ndarray:  # (n, count) uint8 -> (n, packed_bytes(count, bits)) uint8
    """Pack the codes of each row, each less than 2^bits."""
    if bits == 8:
        return codes
    if 8 % bits == 0 and codes.shape[1] % (8 // bits) == 0:  # the same bytes, without a bit at a time in between
        runs = codes.reshape(len(codes), -1, 8 // bits) << np.arange(0, 8, bits, dtype=np.uint8)
        return np.bitwise_or.reduce(runs, axis=2)
    # BEGIN SOLUTION ex=07.4
    single = codes[:, :, None] >> np.arange(bits, dtype=np.uint8) & np.uint8(1)
    return np.packbits(single.reshape(len(codes), -1), axis=1, bitorder="little")
    # END SOLUTION


def unpack_bits(packed: np.ndarray, bits: int, count: int) -> np.ndarray:  # (n, bytes) uint8 -> (n, count) uint8
    """Unpack so many codes of each row, the inverse of pack_bits."""
    if bits == 8:
        return packed[:, :count]
    if 8 % bits == 0:
        codes = packed[:, :, None] >> np.arange(0, 8, bits, dtype=np.uint8) & np.uint8((1 << bits) - 1)
        return codes.reshape(len(packed), -1)[:, :count]
    single = np.unpackbits(packed, axis=1, count=count * bits, bitorder="little").reshape(len(packed), count, bits)
    return np.bitwise_or.reduce(single << np.arange(bits, dtype=np.uint8), axis=2)
