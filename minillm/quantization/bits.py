"""Codes of a few bits side by side in bytes, with nothing between them.

    3 bits    byte 0  c2 c2 c1 c1 c1 c0 c0 c0      byte 1  c5 c4 c4 c4 c3 c3 c3 c2      byte 2  c7 c7 c7 c6 c6 c6 c5 c5

The first code has the lowest bits of the first byte, and one that does not fit ends in the next byte. A row begins a byte of its
own; what its last byte has left is zero.
"""

import numpy as np


def packed_bytes(count: int, bits: int) -> int:
    """Count the bytes of so many codes."""
    return -(-count * bits // 8)


def runs_of(bits: int) -> tuple[int, int, str]:
    """Count the fewest codes that fill whole bytes, and those bytes; and name the NumPy type of numbers that hold them."""
    codes, nbytes = (8 // bits, 1) if 8 % bits == 0 else (8, bits)
    return codes, nbytes, "u1" if nbytes == 1 else "<u4" if nbytes <= 4 else "<u8"


def pack_bits(codes: np.ndarray, bits: int) -> np.ndarray:  # (n, count) uint8 -> (n, packed_bytes(count, bits)) uint8
    """Pack the codes of each row, each less than 2^bits."""
    if bits == 8:
        return codes
    # BEGIN SOLUTION ex=07.4
    (n, count), (each, nbytes, kind) = codes.shape, runs_of(bits)
    runs = np.pad(codes, ((0, 0), (0, -count % each))).reshape(n, -1, each)
    words = np.zeros(runs.shape[:2], kind)
    for i in range(each):
        words |= runs[:, :, i].astype(kind) << bits * i
    stored = words.view(np.uint8).reshape(*words.shape, -1)[:, :, :nbytes]
    return np.ascontiguousarray(stored.reshape(n, -1)[:, : packed_bytes(count, bits)])
    # END SOLUTION


def unpack_bits(packed: np.ndarray, bits: int, count: int) -> np.ndarray:  # (n, bytes) uint8 -> (n, count) uint8
    """Unpack so many codes of each row, the inverse of pack_bits."""
    if bits == 8:
        return packed[:, :count]
    n, (each, nbytes, kind) = len(packed), runs_of(bits)
    words = packed
    if nbytes > 1:
        runs = np.pad(packed, ((0, 0), (0, -packed.shape[1] % nbytes))).reshape(n, -1, nbytes)
        words = np.zeros(runs.shape[:2], kind)
        for i in range(nbytes):
            words |= runs[:, :, i].astype(kind) << 8 * i
    codes = np.empty((*words.shape, each), np.uint8)
    for i in range(each):
        codes[:, :, i] = words >> bits * i & (1 << bits) - 1
    return codes.reshape(n, -1)[:, :count]
