"""The product of linear.py in plain Numba: the same layout, without a word of LLVM's language.

tile.py says outright what a register holds. Here a loop over the sixteen rows of a band says it, and the compiler has to
find out: every length is a constant (a variable of the function around the kernel), so LLVM unrolls the inner loops and
turns the loop over rows into vector instructions. Nothing is added across lanes, so it needs no leave to reorder sums.

    for row in 0 … 15:                                    one lane each
        for pair in 0 … 15:                               unrolled: shift and mask are constants
            dot[row] += code · x[column] + code · x[column + 1]
        y[row] += scale · dot - minimum · Σx

Codes become floats and x stays what it is: multiplying 16-bit integers pays where one instruction multiplies two pairs of
them, and LLVM does not find that one in loops like these. It runs wherever Numba runs, and is the measure of what the
vector step is worth: MINILLM_KERNELS=plain chooses it.
"""

from functools import lru_cache

import numpy as np
from numba import njit, prange

from minillm.backends.numba_.compiled import kernel
from minillm.backends.numba_.layouts import BAND, BYTE, HALF, HEAD, LAYOUT_LIST, NIBBLE, POWER
from minillm.backends.numba_.team import threads

I32, U32 = np.int32, np.uint32  # Numba computes integers in 64 bits; these say that 32 are enough
U64 = np.uint64  # of an index: it cannot be negative, which Numba would otherwise ask for each number


@njit
def half(bits):  # uint16 -> float32
    """Decode float16 bits, by moving them to where float32 has them: an exponent 112 smaller, corrected by a product."""
    number = U32((bits & 0x7FFF) << 13)
    number = U32(number | 0x70000000) if bits & 0x7C00 == 0x7C00 else number  # infinity, NaN: stay what they are
    value = U32(number).view(np.float32) * np.float32(2.0**112)
    return -value if bits & 0x8000 else value


@njit
def power(e):  # 0 … 255 -> 2^(e - 128), float32
    return U32(U32(U32(e) - U32(1)) << U32(23) if e > 1 else U32(1 << 21) << U32(e)).view(np.float32)  # the least are subnormal


@lru_cache
def plain_kernel(number):
    """Compile the product for one layout, on first use."""
    layout = LAYOUT_LIST[number]
    low, upper, offset, values = layout.low_bits, layout.bits - layout.low_bits, I32(layout.offset), layout.values
    groups, pairs, minima, kind = layout.groups, layout.span // 2, layout.minima, layout.scales
    together, head_bytes, record_bytes = layout.together, layout.head_bytes, layout.record_bytes
    code_bytes, scale_bytes = layout.code_bytes, layout.scale_bytes
    low_each, low_mask = 16 // low, U32(0x00010001 * ((1 << low) - 1))  # pairs in a lane of 32 bits
    upper_each, upper_mask = 16 // max(1, upper), U32(0x00010001 * ((1 << upper) - 1))
    shift = together.bit_length() - 1
    minima_at = 0 if kind == NIBBLE else groups * scale_bytes  # behind the scales

    @njit(inline="always")
    def two_codes(words, band, n, at, pair, row):
        """The codes of columns 2·pair and 2·pair + 1 of the record at word `at` behind head n, in the two halves of 32 bits."""
        word = words[band, n, U64(at) + U64(16 * (pair // low_each)) + U64(row)]
        two = U32(U32(word >> U32(low * (pair % low_each))) & low_mask)
        if upper:
            word = words[band, n, U64(at) + U64(16 * (low + pair // upper_each)) + U64(row)]
            more = U32(word >> U32(upper * (pair % upper_each))) & upper_mask
            two = U32(two | U32(more) << U32(low))
        return two

    if layout.table or layout.levels:

        @njit(inline="always")
        def value(code):
            return values[code]

    else:

        @njit(inline="always")
        def value(code):
            return np.float32(I32(I32(code) - offset))

    if kind == HALF:

        @njit(inline="always")
        def scale_at(raw, halves, band, n, at, row, units, down):
            """Row `row` of the scales, or minima, at byte `at`. units: of sixteen whole numbers; down: to a nibble."""
            return half(halves[band, n, U64(at >> 1) + U64(row)])

    elif kind == HEAD:

        @njit(inline="always")
        def scale_at(raw, halves, band, n, at, row, units, down):
            return units[row]

    elif kind == POWER:

        @njit(inline="always")
        def scale_at(raw, halves, band, n, at, row, units, down):
            return power(raw[band, n, U64(at) + U64(row)])

    elif kind == BYTE:

        @njit(inline="always")
        def scale_at(raw, halves, band, n, at, row, units, down):
            return units[row] * np.float32(np.int8(raw[band, n, U64(at) + U64(row)]))

    else:

        @njit(inline="always")
        def scale_at(raw, halves, band, n, at, row, units, down):
            return units[row] * np.float32(raw[band, n, U64(at) + U64(row)] >> down & 15)

    @njit(error_model="numpy", fastmath={"contract"})
    def add_band(raw, halves, words, band, x, sums, t, y, d, dmin):
        """y[row] += the 16 rows of a band times token t. Whole arrays come in: making a slice costs as much as a record.

        d, dmin: room for sixteen numbers each.
        """
        for b in range(x.shape[1] // 32):
            n, at = b >> shift, head_bytes + (b & (together - 1)) * record_bytes
            if head_bytes and at == head_bytes:
                for row in range(16):
                    d[row] = half(halves[band, n, row])
                    dmin[row] = half(halves[band, n, 16 + row]) if minima else np.float32(0)
            for row in range(16):
                total = np.float32(0)
                for g in range(groups):
                    dot = np.float32(0)
                    for pair in range(g * pairs, (g + 1) * pairs):
                        two = two_codes(words, band, n, at >> 2, pair, row)
                        dot += value(two & U32(0xFFFF)) * x[t, 32 * b + 2 * pair]
                        dot += value(two >> U32(16)) * x[t, 32 * b + 2 * pair + 1]
                    scales = at + code_bytes + scale_bytes * g
                    total += scale_at(raw, halves, band, n, scales, row, d, 0) * dot
                    if minima:
                        minimum = scale_at(raw, halves, band, n, scales + minima_at, row, dmin, 4)
                        total -= minimum * sums[t, groups * b + g]
                y[row] += total

    @kernel(parallel=True)
    def run(x, raw, halves, words, y, threads):
        n, bands, blocks = len(x), len(raw), x.shape[1] // 32
        sums = np.zeros((n, blocks * groups), np.float32)
        for t in range(n):
            for c in range(32 * blocks):
                sums[t, c // (2 * pairs)] += x[t, c]
        for part in prange(threads):
            d, dmin = np.empty(16, np.float32), np.empty(16, np.float32)
            for band in range(part * bands // threads, (part + 1) * bands // threads):
                for t in range(n):
                    out = y[t, 16 * band : 16 * band + 16]
                    out[:] = np.float32(0)
                    add_band(raw, halves, words, band, x, sums, t, out, d, dmin)

    return run


def linear_plain(x, matrix, count=None):  # (n, columns) float32, PackedMatrix -> (n, rows)
    """Compute linear.linear, for a packed matrix of any layout."""
    x, y = np.ascontiguousarray(x, np.float32), np.empty((len(x), len(matrix.records) * BAND), np.float32)
    raw = matrix.records.reshape(len(matrix.records), -1, matrix.layout.dtype.itemsize)  # bands, heads, bytes
    plain_kernel(matrix.number)(x, raw, raw.view(np.uint16), raw.view(np.uint32), y, count or threads())
    return y[:, : matrix.shape[0]]
