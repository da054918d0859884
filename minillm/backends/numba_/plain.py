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
from minillm.backends.numba_.packed import BAND, BLOCK, LAYOUT_LIST
from minillm.backends.numba_.team import threads

I32, U32 = np.int32, np.uint32  # Numba computes integers in 64 bits; these say that 32 are enough


@njit
def half(bits):  # uint16 -> float32
    """Decode float16 bits, by moving them to where float32 has them: an exponent 112 smaller, corrected by a product."""
    number = U32((bits & 0x7FFF) << 13)
    number = U32(number | 0x70000000) if bits & 0x7C00 == 0x7C00 else number  # infinity, NaN: stay what they are
    value = U32(number).view(np.float32) * np.float32(2.0**112)
    return -value if bits & 0x8000 else value


@lru_cache
def plain_kernel(number):
    """Compile the product for one layout, on first use."""
    layout = LAYOUT_LIST[number]
    bits, group, offset, minima = layout.bits, layout.group, I32(layout.offset), layout.minima
    groups, pairs, code_words = BLOCK // group, group // 2, layout.code_bytes // 4
    width = 8 if bits == 8 else 4  # of a code in the lower plane
    each, mask = 16 // width, U32((1 << width) - 1 | (1 << width) - 1 << 16)  # pairs in a lane of 32 bits
    upper = max(1, bits - 4)
    upper_each, upper_mask = 16 // upper, U32((1 << upper) - 1 | (1 << upper) - 1 << 16)

    @njit(inline="always")
    def two_codes(words, band, b, pair, row):
        """The codes of columns 2·pair and 2·pair + 1, in the two halves of 32 bits."""
        two = U32(U32(words[band, b, 16 * (pair // each) + row] >> U32(width * (pair % each))) & mask)
        if bits == 5 or bits == 6:
            more = words[band, b, 64 + 16 * (pair // upper_each) + row] >> U32(upper * (pair % upper_each))
            two = U32(two | U32(U32(more) & upper_mask) << U32(4))
        return two

    if layout.wide:

        @njit(inline="always")
        def scale_at(words, halves, band, b, i):
            """Number i of the scales and minima of a record."""
            return U32(words[band, b, code_words + i]).view(np.float32)

    else:

        @njit(inline="always")
        def scale_at(words, halves, band, b, i):
            return half(halves[band, b, 2 * code_words + i])

    @njit(error_model="numpy", fastmath={"contract"})
    def add_band(words, halves, band, x, sums, t, y):
        """y[row] += the 16 rows of a band times token t. Whole arrays come in: making a slice costs as much as a record."""
        for b in range(words.shape[1]):
            for row in range(16):
                total = np.float32(0)
                for g in range(groups):
                    dot = np.float32(0)
                    for pair in range(g * pairs, (g + 1) * pairs):
                        two = two_codes(words, band, b, pair, row)
                        dot += np.float32(I32(I32(two & U32(0xFFFF)) - offset)) * x[t, 32 * b + 2 * pair]
                        dot += np.float32(I32(I32(two >> U32(16)) - offset)) * x[t, 32 * b + 2 * pair + 1]
                    total += scale_at(words, halves, band, b, 16 * g + row) * dot
                    if minima:
                        total -= scale_at(words, halves, band, b, 16 * (groups + g) + row) * sums[t, groups * b + g]
                y[row] += total

    @kernel(parallel=True)
    def run(x, words, halves, y, threads):
        n, (bands, blocks, _) = len(x), words.shape
        sums = np.zeros((n, blocks * groups), np.float32)
        for t in range(n):
            for c in range(32 * blocks):
                sums[t, c // group] += x[t, c]
        for part in prange(threads):
            for band in range(part * bands // threads, (part + 1) * bands // threads):
                for t in range(n):
                    out = y[t, 16 * band : 16 * band + 16]
                    out[:] = np.float32(0)
                    add_band(words, halves, band, x, sums, t, out)

    return run


def linear_plain(x, matrix, count=None):  # (n, columns) float32, PackedMatrix -> (n, rows)
    """Compute linear.linear, for a packed matrix of any layout."""
    x, y = np.ascontiguousarray(x, np.float32), np.empty((len(x), len(matrix.records) * BAND), np.float32)
    words, halves = matrix.records.view(np.uint32), matrix.records.view(np.uint16)
    plain_kernel(matrix.number)(x, words, halves, y, count or threads())
    return y[:, : matrix.shape[0]]
