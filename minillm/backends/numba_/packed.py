"""Packed weights, laid out so that one SIMD register holds sixteen output rows.

A file stores a matrix row by row. A kernel that multiplies row by row must add up the lanes of a register at the end of
each block, sixteen numbers into one, and spends its time on that. Turned by ninety degrees, lane r of a register
belongs to row r: sixteen rows are computed side by side and nothing is ever added across lanes.

A matrix is cut into bands of 16 rows, a band into blocks of 32 columns. The *record* of a block is all that one step of
the kernel reads, in the order in which it reads it, and the records of a band follow one another like a tape:

    record   | codes: 16 rows × 32 | upper bits, for 3, 5 and 6 bits | scales: 16 a group | minima: 16 a group |
    codes    64 bytes = 16 lanes of 32 bits = 16 rows; a lane holds eight 4-bit codes, in pairs of neighbouring columns:

             bits of a lane   31..28 27..24 23..20 19..16 │ 15..12 11..8  7..4  3..0
             column              7      5      3      1   │    6      4     2     0      & 0x000F000F gives the pair 0, 1

layouts.py says what a record holds for each type, and how large it is. The file's bits are all kept (Q4_1 takes 20 bytes for
32 weights there and here), and with them its numbers: unpacking gives the bits that decoding the file gives.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numba import njit
from numba.extending import register_jitable

from minillm.backends.numba_.compiled import kernel
from minillm.backends.numba_.layouts import BAND, BLOCK, HALF, HEAD, LAYOUT_LIST, LAYOUTS, NIBBLE, POWER, Layout
from minillm.backends.numba_.simd import number
from minillm.formats.affine_blocks import nf4_parts
from minillm.formats.k_quants import FACTORS
from minillm.memory import carve

ROWS_AT_A_TIME = 1024  # repacked together: the temporaries stay small
LARGEST_POWER = 232  # of e: 2^(232 - 128) times a sum of 32 products, at most 12 · 32767 each, is still a float32


@dataclass(frozen=True)
class PackedMatrix:
    """A (rows, columns) matrix as records: (bands, columns / 32, block_bytes) uint8, 64-byte aligned.

    Where records share a head, it lies before the first of them: only bands begin where this shape says.
    """

    records: np.ndarray
    layout: Layout
    shape: tuple[int, int]
    x_bits: int = 16  # what x is rounded to before it is multiplied, 16 or 8; with levels x stays as it is

    @property
    def nbytes(self):
        return self.records.nbytes

    @property
    def padded_rows(self):
        """Rows of all bands."""
        return len(self.records) * BAND

    @cached_property
    def place(self):
        """Return where its records lie: address, blocks in a band, bytes of a block, bands."""
        bands, blocks, block_bytes = self.records.shape
        return self.records.ctypes.data, blocks, block_bytes, bands

    @cached_property
    def number(self):
        """The number of its layout, for kernels."""
        return LAYOUT_LIST.index(self.layout)

    @cached_property
    def stored(self):
        """What `unpack` asks of it, but for the rows."""
        l, raw = self.layout, self.records.reshape(len(self.records), -1)
        sizes = l.together, l.head_bytes, l.record_bytes, l.code_bytes
        return raw, raw.view(np.uint16), sizes, l.bits, l.span, l.values, l.scales, l.minima


def pack(tensor, x_bits=16):  # a stored tensor (rows, columns) of a packed type, 16 or 8 -> PackedMatrix
    """Repack a tensor of a file. Rows beyond the last full band are filled with scale 0."""
    layout, (rows, columns) = LAYOUTS[tensor.type.name], tensor.shape
    bands, blocks = -(-rows // BAND), columns // BLOCK
    records = aligned((bands, blocks, layout.block_bytes), np.uint8)
    raw = tensor.raw.reshape(rows, -1)
    for start in range(0, rows, ROWS_AT_A_TIME):
        stop = min(start + ROWS_AT_A_TIME, rows)
        chunk = np.ascontiguousarray(raw[start:stop]).reshape(-1, tensor.type.bytes)
        with np.errstate(invalid="ignore", over="ignore"):  # scales of an untrusted file may be inf or NaN
            parts = stored_parts(chunk, tensor.type, layout)
            write_records(records[start // BAND : -(-stop // BAND)], layout, stop - start, parts)
    return PackedMatrix(records, layout, (rows, columns), x_bits)


def can_pack(tensor):  # a stored tensor
    """Whether its type has a layout, and the kernel's sums stay finite: it scales a sum of codes first, and by x's scale last."""
    layout = LAYOUTS.get(tensor.type.name)
    if layout is None or layout.scales != POWER:
        return layout is not None
    return int(tensor.raw.reshape(-1, tensor.type.bytes)[:, 0].max(initial=0)) <= LARGEST_POWER


def stored_parts(chunk, type, layout):  # (blocks, bytes) uint8 -> {field of layout.dtype: (blocks, numbers)}
    """Take blocks of a file apart: unsigned codes, and the other numbers as records keep them."""
    if type.name in FACTORS:
        q, d, scales, dmin, minima = FACTORS[type.name](chunk)
        parts = {"d": d, "dmin": dmin, "scales": scales, "minima": minima}
    else:
        q, scales, minima = nf4_parts(chunk) if layout.levels else type.parts(chunk)
        parts = {"d": scales, "dmin": minima} if layout.scales == HEAD else {"scales": scales, "minima": minima}
    if layout.scales == NIBBLE:
        parts["scales"] = scales | parts.pop("minima") << 4
    elif layout.scales == POWER:
        parts["scales"] = exponents(scales)
    parts["codes"] = codes_of(q, layout)
    return {name: numbers for name, numbers in parts.items() if numbers is not None}


def codes_of(q, layout):  # signed integers -> codes, uint8
    if layout.table is None:
        return (q + np.int16(layout.offset) if layout.offset else q).astype(np.uint8, copy=False)
    code = np.zeros(256, np.uint8)
    code[np.array(layout.table[::-1], np.int8).view(np.uint8)] = np.arange(len(layout.table))[::-1]  # the first of equal values
    return code[q.astype(np.int8).view(np.uint8)]


def exponents(scale):  # powers of two, float32 -> e of 2^(e - 128), uint8
    """Read the exponent; the two smallest powers are subnormal: a float32 has them in its fraction."""
    bits = scale.view(np.uint32)
    return np.where(bits < 1 << 23, bits >> 22, (bits >> 23) + 1).astype(np.uint8)


def write_records(records, layout, rows, parts):  # (bands, blocks, bytes), {field: (…, numbers)}, blocks of a row side by side
    """Fill the records of some bands."""
    bands = len(records)
    head = records.reshape(bands, -1).view(layout.dtype)  # (bands, heads), or (bands, blocks) where there are no heads
    record = head["records"]
    for name, numbers in parts.items():
        numbers, field = whole_bands(numbers.reshape(rows, -1), bands), (head if name in ("d", "dmin") else record)[name]
        if name == "codes":
            field[:] = interleave(numbers.reshape(bands, BAND, -1, BLOCK), layout.bits).reshape(field.shape)
        else:  # rows last: they are the lanes
            field[:] = numbers.reshape(bands, BAND, -1).swapaxes(1, 2).reshape(field.shape)


def interleave(codes, bits):  # (bands, 16, blocks, 32) uint8 -> (bands, blocks, bytes) uint8
    """Interleave the codes of a band, row by row, to lanes: see the picture above."""
    bands, _, blocks, _ = codes.shape
    if bits == 8:  # a lane holds columns 0, 2, 1, 3: & 0x00FF00FF gives the pair 0, 1
        order = codes.reshape(bands, BAND, blocks, 8, 2, 2).swapaxes(-1, -2)
        return np.ascontiguousarray(order.transpose(0, 2, 3, 1, 4, 5)).reshape(bands, blocks, -1)
    pairs = np.ascontiguousarray(codes).view(np.uint16).reshape(bands, BAND, blocks, 16).transpose(0, 2, 3, 1)
    pairs = np.ascontiguousarray(pairs).view(np.uint8).reshape(bands, blocks, 16, BAND, 2)  # in the order in which they are read
    low = 2 if bits < 4 else 4  # bits of the first plane
    planes = [halfwords(pairs & (1 << low) - 1, low)]
    if bits > low:
        planes.append(halfwords(pairs >> low, bits - low))
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
    out = np.empty((len(rows), matrix.shape[1]), np.float32)
    unpack(rows, *matrix.stored, out)
    return out


@njit
def code_at(words, lane, column, bits):  # (16-bit words of a record) -> 0 … 2^bits - 1
    """Read the code of row `lane`, column 0 … 31, out of a record of 16-bit words: the lower bits, and those behind them."""
    low = 8 if bits == 8 else 4 if bits >= 4 else 2
    word, shift = place(lane, column, low)
    code = words[word] >> shift & (1 << low) - 1
    if low < bits:
        word, shift = place(lane, column, bits - low)
        code |= (words[32 * low + word] >> shift & (1 << bits - low) - 1) << low
    return code


@njit
def scale_at(raw, halves, at, unit_at, lane, kind, minimum):
    """Read the scale, or the minimum, of one row: `lane` of the register at byte `at` of a band.

    raw, halves: the band as bytes, and as 16-bit words. unit_at: where a head has it, or what the whole numbers are worth.
    """
    if kind == HEAD:
        return number(halves, unit_at // 2 + lane)
    if kind == HALF:
        return number(halves, at // 2 + lane)
    byte = raw[at + lane]
    if kind == POWER:
        return np.float32(2.0 ** (np.float64(byte) - 128))
    nibble = byte >> 4 if minimum else byte & 15
    return number(halves, unit_at // 2 + lane) * np.float32(nibble if kind == NIBBLE else np.int8(byte))


@kernel()
def unpack(rows, raw, halves, sizes, bits, group, values, kind, minima, out):
    """Unpack the picture above, column by column. raw, halves: bands as bytes, and as 16-bit words.

    sizes: records that share a head, and the bytes of a head, a record, its codes. values: what the codes stand for.
    """
    together, head_bytes, record_bytes, code_bytes = sizes
    groups, each = 32 // group, 16 if kind != HALF else 32  # bytes of a register of scales
    for i in range(len(rows)):
        band, lane = rows[i] // 16, rows[i] % 16
        for block in range(out.shape[1] // 32):
            head = block // together * (head_bytes + together * record_bytes)
            start = head + head_bytes + block % together * record_bytes
            words, first = halves[band, start // 2 :], 32 * block
            for g in range(groups):
                at = start + code_bytes + each * g
                scale, minimum = scale_at(raw[band], halves[band], at, head, lane, kind, False), np.float32(0)
                if minima:
                    at += 0 if kind == NIBBLE else each * groups
                    minimum = scale_at(raw[band], halves[band], at, head + 32, lane, kind, True)
                for column in range(g * group, (g + 1) * group):
                    out[i, first + column] = scale * values[code_at(words, lane, column, bits)] - minimum


def whole_bands(a, bands):  # (rows, n) -> (16 · bands, n), zeros below
    return a if len(a) == bands * BAND else np.pad(a, ((0, bands * BAND - len(a)), (0, 0)))


def aligned(shape, dtype):
    """Allocate an array that starts on a cache line, in memory with large pages where there are any."""
    return carve(int(np.prod(shape)) * np.dtype(dtype).itemsize).view(dtype).reshape(shape)
