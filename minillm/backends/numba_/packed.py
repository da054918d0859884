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
from numba.extending import register_jitable

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
    """Pack as many pairs into a lane as fit, where `place` has the pair of row 0: the other rows stand beside it."""
    bands, blocks = pairs.shape[:2]
    words = np.zeros((bands, blocks, bits, BAND, 2), np.uint16)
    for pair in range(16):
        word, shift = place(0, 2 * pair, bits)
        words[:, :, word // (2 * BAND)] |= pairs[:, :, pair].astype(np.uint16) << np.uint16(shift)
    return words.view(np.uint8).reshape(bands, blocks, -1)


@register_jitable  # plain Python, where no kernel calls it: its errors name lines
def place(lane, column, bits):  # row of the band, column 0 … 31, bits of a code -> word, shift
    """Find where a record keeps a code: the number of its 16-bit word, and the bit of the word at which it begins.

    All codes have `bits` bits here: 1, 2, 4 or 8. A lane of the picture above is two neighbouring words, the first for even
    columns and the second for odd ones, so that one mask gives a pair. Sixteen lanes, one a row, stand side by side in a
    register. In a lane the first pair of columns has the lowest bits, and the next stands above it. A pair that has no room
    left in the lane begins the next register, which lies behind this one.
    """
    # BEGIN SOLUTION ex=11.1
    bit = bits * (column // 2)  # of both halves, if a lane had as many bits as it takes
    return 32 * (bit // 16) + 2 * lane + column % 2, bit % 16
    # END SOLUTION


def unpack_rows(matrix, rows):  # PackedMatrix, (n,) row numbers -> (n, columns) float32
    """Unpack these rows to float32."""
    l, out = matrix.layout, np.empty((len(rows), matrix.shape[1]), np.float32)
    halves, floats = matrix.records.view(np.uint16), matrix.records.view(np.float32)
    unpack(halves, floats, rows, l.bits, l.group, l.offset, l.wide, l.minima, out)
    return out


@njit
def code_at(words, lane, column, bits):  # (16-bit words of a record) -> 0 … 2^bits - 1
    """Read the code of row `lane`, column 0 … 31, out of a record of 16-bit words: the lower four bits, and those behind them."""
    low = 8 if bits == 8 else 4
    word, shift = place(lane, column, low)
    code = words[word] >> shift & (1 << low) - 1
    if low < bits < 8:
        word, shift = place(lane, column, bits - low)
        code |= (words[128 + word] >> shift & (1 << bits - low) - 1) << 4
    return code


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
