"""Packed weights, laid out so that one SIMD register holds sixteen output rows.

A file stores a matrix row by row. A kernel that multiplies row by row must add up the lanes of a register at the end of
each block, sixteen numbers into one, and spends its time on that. Turned by ninety degrees, lane r of a register
belongs to row r: sixteen rows are computed side by side and nothing is ever added across lanes.

A matrix is cut into bands of 16 rows, a band into blocks of 32 columns. The *record* of a block is all that one step of
the kernel reads, in the order in which it reads it, and the records of a band follow one another like a handle:

    record   | codes: 16 rows × 32 | upper bits, for 5 and 6 bits | scales: 16 | minima: 16 |
    codes    64 bytes = 16 lanes of 32 bits = 16 rows; a lane holds eight 4-bit codes, in pairs of neighbouring columns:

             bits of a lane   31..28 27..24 23..20 19..16 │ 15..12 11..8  7..4  3..0
             column              7      5      3      1   │    6      4     2     0      & 0x000F000F gives the pair 0, 1

Codes are unsigned; the value is scale · (code - offset) or scale · code - minimum. The file's bits are all kept (Q4_1
takes 20 bytes for 32 weights there and here); the scales of the K types, products of two numbers, become float32, and
their 2- and 3-bit codes take 4 bits.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numba import njit

from minillm.backends.numba_.compiled import kernel
from minillm.backends.numba_.simd import number

BAND = 16  # rows side by side: float32 lanes of a 512-bit register; narrower machines use several registers
BLOCK = 32  # columns of a record
ROWS_AT_A_TIME = 1024  # repacked together: the temporaries stay small


@dataclass(frozen=True, slots=True)
class Layout:
    """The layout of a type, known to the kernel at compile time.

    bits: 4, 5, 6 or 8 a code. group: columns that share a scale, 16 or 32. offset: taken from each code.
    wide: scales are float32 instead of float16. minima: there is a minimum per group too.
    """

    bits: int
    group: int
    offset: int
    wide: bool
    minima: bool

    @property
    def code_bytes(self):
        """Bytes of the codes of a record, upper bits included: 16 rows × 32 columns × bits / 8."""
        return BAND * BLOCK * self.bits // 8

    @property
    def scale_bytes(self):
        """Bytes of one register of scales."""
        return BAND * (4 if self.wide else 2)

    @property
    def record_bytes(self):
        return self.code_bytes + BLOCK // self.group * (1 + self.minima) * self.scale_bytes


LAYOUTS = {
    "Q4_0": Layout(4, 32, 8, wide=False, minima=False),
    "Q4_1": Layout(4, 32, 0, wide=False, minima=True),
    "Q5_0": Layout(5, 32, 16, wide=False, minima=False),
    "Q5_1": Layout(5, 32, 0, wide=False, minima=True),
    "Q8_0": Layout(8, 32, 128, wide=False, minima=False),
    "Q2_K": Layout(4, 16, 0, wide=True, minima=True),
    "Q3_K": Layout(4, 16, 4, wide=True, minima=False),
    "Q4_K": Layout(4, 32, 0, wide=True, minima=True),
    "Q5_K": Layout(5, 32, 0, wide=True, minima=True),
    "Q6_K": Layout(6, 16, 32, wide=True, minima=False),
}


LAYOUT_LIST = list(dict.fromkeys(LAYOUTS.values()))  # a kernel is compiled for a number in this list


@dataclass(frozen=True)
class PackedMatrix:
    """A (rows, columns) matrix as records: (bands, columns / 32, record_bytes) uint8, 64-byte aligned."""

    records: np.ndarray
    layout: Layout
    shape: tuple[int, int]

    @property
    def nbytes(self):
        return self.records.nbytes

    @property
    def padded_rows(self):
        """Rows of all bands."""
        return len(self.records) * BAND

    @cached_property
    def place(self):
        """Return where its records lie: address, blocks in a band, bytes of a record, bands."""
        bands, blocks, record_bytes = self.records.shape
        return self.records.ctypes.data, blocks, record_bytes, bands

    @cached_property
    def number(self):
        """The number of its layout, for kernels."""
        return LAYOUT_LIST.index(self.layout)


def pack(tensor):  # a stored tensor (rows, columns) of a packed type -> PackedMatrix
    """Repack a tensor of a file. Rows beyond the last full band are filled with scale 0."""
    layout, (rows, columns) = LAYOUTS[tensor.type.name], tensor.shape
    bands, blocks = -(-rows // BAND), columns // BLOCK
    records = aligned((bands, blocks, layout.record_bytes), np.uint8)
    raw = tensor.raw.reshape(rows, -1)
    for start in range(0, rows, ROWS_AT_A_TIME):
        stop = min(start + ROWS_AT_A_TIME, rows)
        chunk = np.ascontiguousarray(raw[start:stop]).reshape(-1, tensor.type.bytes)
        with np.errstate(invalid="ignore", over="ignore"):  # scales of an untrusted file may be inf or NaN
            parts = tensor.type.parts(chunk)
        q, scale, minimum = (None if a is None else a.reshape(stop - start, -1) for a in parts)
        bands_here = slice(start // BAND, -(-stop // BAND))
        write_records(records[bands_here], layout, (q + np.int16(layout.offset)).astype(np.uint8), scale, minimum)
    return PackedMatrix(records, layout, (rows, columns))


def write_records(records, layout, codes, scale, minimum):  # (bands, blocks, bytes), (rows, columns), (rows, groups) ...
    """Fill the records of some bands."""
    bands, blocks, _ = records.shape
    codes, scale, minimum = (None if a is None else whole_bands(a, bands) for a in (codes, scale, minimum))
    records[..., : layout.code_bytes] = interleave(codes.reshape(bands, BAND, blocks, BLOCK), layout.bits)
    at = layout.code_bytes
    for numbers in (scale, minimum):
        if numbers is not None:
            lanes = numbers.reshape(bands, BAND, blocks, -1).transpose(0, 2, 3, 1)  # rows last: they are the lanes
            stored = np.ascontiguousarray(lanes, np.float32 if layout.wide else np.float16).view(np.uint8)
            stored = stored.reshape(bands, blocks, -1)
            records[..., at : at + stored.shape[-1]] = stored
            at += stored.shape[-1]


def interleave(codes, bits):  # (bands, 16, blocks, 32) uint8 -> (bands, blocks, bytes) uint8
    """Interleave the codes of a band, row by row, to lanes: see the picture above."""
    bands, _, blocks, _ = codes.shape
    if bits == 8:  # a lane holds columns 0, 2, 1, 3: & 0x00FF00FF gives the pair 0, 1
        order = codes.reshape(bands, BAND, blocks, 8, 2, 2).swapaxes(-1, -2)
        return np.ascontiguousarray(order.transpose(0, 2, 3, 1, 4, 5)).reshape(bands, blocks, -1)
    pairs = codes.reshape(bands, BAND, blocks, 16, 2).transpose(0, 2, 3, 1, 4)  # (bands, blocks, pair, row, side)
    planes = [halfwords(pairs & 15, 4)]
    if bits > 4:
        planes.append(halfwords(pairs >> 4, bits - 4))
    return np.concatenate(planes, axis=2)


def halfwords(pairs, bits):  # (bands, blocks, 16, rows, 2) uint8 -> (bands, blocks, bytes) uint8
    """Pack as many pairs into a lane as fit: the first into the lowest bits of both of its halves."""
    each = 16 // bits
    bands, blocks = pairs.shape[:2]
    split = pairs.reshape(bands, blocks, 16 // each, each, BAND, 2)
    words = np.zeros((bands, blocks, 16 // each, BAND, 2), np.uint16)
    # BEGIN SOLUTION ex=11.2
    for i in range(each):
        words |= split[:, :, :, i].astype(np.uint16) << np.uint16(bits * i)
    # END SOLUTION
    return words.view(np.uint8).reshape(bands, blocks, -1)


def unpack_rows(matrix, rows):  # PackedMatrix, (n,) row numbers -> (n, columns) float32
    """Unpack these rows to float32."""
    l, out = matrix.layout, np.empty((len(rows), matrix.shape[1]), np.float32)
    halves, floats = matrix.records.view(np.uint16), matrix.records.view(np.float32)
    unpack(halves, floats, rows, l.bits, l.group, l.offset, l.wide, l.minima, out)
    return out


@njit
def code_at(words, lane, column, bits):  # (16-bit words of a record) -> 0 … 2^bits - 1
    """Read the code of row `lane`, column 0 … 31, out of a record of 16-bit words: two words, one lane, are a pair of columns."""
    # BEGIN SOLUTION ex=11.1
    pair, at = column // 2, 2 * lane + column % 2
    if bits == 8:
        return words[32 * (pair // 2) + at] >> 8 * (pair % 2) & 255
    code = words[32 * (pair // 4) + at] >> 4 * (pair % 4) & 15
    if bits == 5:
        code |= (words[128 + at] >> pair & 1) << 4
    elif bits == 6:
        code |= (words[128 + 32 * (pair // 8) + at] >> 2 * (pair % 8) & 3) << 4
    return code
    # END SOLUTION


@kernel()
def unpack(halves, floats, rows, bits, group, offset, wide, minima, out):
    """Unpack the picture above, column by column. halves, floats: the same records as 16-bit words and as float32."""
    for i in range(len(rows)):
        band, lane = rows[i] // 16, rows[i] % 16
        for block in range(halves.shape[1]):
            words, first = halves[band, block], 32 * block
            for g in range(32 // group):
                scale_at, minimum_at = 16 * g + lane, 16 * (32 // group + g) + lane
                if wide:
                    numbers = floats[band, block, 16 * bits :]
                    scale, minimum = numbers[scale_at], numbers[minimum_at] if minima else np.float32(0)
                else:
                    numbers = words[32 * bits :]
                    scale, minimum = number(numbers, scale_at), number(numbers, minimum_at) if minima else np.float32(0)
                for column in range(g * group, (g + 1) * group):
                    out[i, first + column] = scale * np.float32(np.int32(code_at(words, lane, column, bits)) - offset) - minimum


def whole_bands(a, bands):  # (rows, n) -> (16 · bands, n), zeros below
    return a if len(a) == bands * BAND else np.pad(a, ((0, bands * BAND - len(a)), (0, 0)))


def aligned(shape, dtype):
    """Allocate an array that starts on a cache line."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)
