"""The product of linear.py in plain Numba: the same layout and the same integers, without a word of LLVM.

tile.py says outright what a register holds. Here a loop over the sixteen rows of a band says it, and the compiler has to
find out: every length is a constant (a variable of the function around the kernel), so LLVM unrolls the inner loops and
turns the loop over rows into vector instructions. Nothing is added across lanes, so it needs no leave to reorder sums.

    for row in 0 … 15:                                    one lane each
        for pair in 0 … 15:                               unrolled: shift and mask are constants
            dot[row] += code · q[column] + code · q[column + 1]
        y[row] += step · (scale · dot - minimum · Σq)

It runs wherever Numba runs and is the measure of what the vector step is worth: MINILLM_KERNELS=plain chooses it.
"""

from functools import lru_cache

import numba
import numpy as np
from numba import njit, prange

from minillm.backends.numba_.compiled import kernel
from minillm.backends.numba_.packed import BAND, BLOCK, LAYOUT_LIST

I32, U32 = np.int32, np.uint32  # Numba computes integers in 64 bits; these say that 32 are enough


@njit
def half(bits):  # uint16 -> float32
    """float16 from its bits, by moving them to where float32 has them: an exponent 112 smaller, put right by a product."""
    number = U32((bits & 0x7FFF) << 13)
    number = U32(number | 0x70000000) if bits & 0x7C00 == 0x7C00 else number  # infinity, NaN: stay what they are
    value = number.view(np.float32) * np.float32(2.0**112)
    return -value if bits & 0x8000 else value


@njit(error_model="numpy")
def round_rows(x, q, scale, sums):  # (n, columns) float32, (n, columns) int16, (n, blocks) float32, (n, blocks, 2) int32
    """What tile.round_block does: x ≈ scale · q block by block, and the sums of q over each half of a block."""
    for t in range(len(x)):
        for b in range(scale.shape[1]):
            top, poison = np.float32(0), np.float32(0)  # 0, or NaN where x is not finite
            for c in range(32 * b, 32 * b + 32):
                top = max(top, abs(x[t, c]))
                poison += x[t, c] * np.float32(0)
            inverse = np.float32(32767) / top if top > 0 and poison == 0 else np.float32(0)
            scale[t, b] = top / np.float32(32767) + poison
            for side in range(2):
                total = I32(0)
                for c in range(32 * b + 16 * side, 32 * b + 16 * side + 16):
                    q[t, c] = np.int16(np.rint(x[t, c] * inverse)) if poison == 0 else np.int16(0)
                    total += q[t, c]
                sums[t, b, side] = total


@lru_cache
def plain_kernel(number):
    """The product for one layout, compiled on first use."""
    layout = LAYOUT_LIST[number]
    bits, group, offset, wide, minima = layout.bits, layout.group, layout.offset, layout.wide, layout.minima
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

    @njit(inline="always")
    def number_at(words, halves, band, b, i):
        """Number i of the scales and minima of a record."""
        return words[band, b, code_words + i].view(np.float32) if wide else half(halves[band, b, 2 * code_words + i])

    @njit(error_model="numpy")
    def add_band(words, halves, band, q, scale, sums, t, y):
        """y[row] += the 16 rows of a band times token t. Whole arrays come in: making a slice costs as much as a record."""
        for b in range(words.shape[1]):
            for row in range(16):
                total = np.float32(0)
                for g in range(groups):
                    q_sum = sums[t, b, g] if groups == 2 else I32(sums[t, b, 0] + sums[t, b, 1])
                    dot = I32(-offset * q_sum)
                    for pair in range(g * pairs, (g + 1) * pairs):
                        two = two_codes(words, band, b, pair, row)
                        dot = I32(dot + I32(I32(two & U32(0xFFFF)) * I32(q[t, 32 * b + 2 * pair])))
                        dot = I32(dot + I32(I32(two >> U32(16)) * I32(q[t, 32 * b + 2 * pair + 1])))
                    value = number_at(words, halves, band, b, 16 * g + row) * np.float32(dot)
                    if minima:
                        value -= number_at(words, halves, band, b, 16 * (groups + g) + row) * np.float32(q_sum)
                    total += value
                y[row] += scale[t, b] * total

    @kernel(parallel=True)
    def run(x, words, halves, y, threads):
        (n, columns), (bands, blocks, _) = x.shape, words.shape
        q, scale = np.empty((n, columns), np.int16), np.empty((n, blocks), np.float32)
        sums = np.empty((n, blocks, 2), np.int32)
        round_rows(x, q, scale, sums)
        for part in prange(threads):
            for band in range(part * bands // threads, (part + 1) * bands // threads):
                for t in range(n):
                    out = y[t, 16 * band : 16 * band + 16]
                    out[:] = np.float32(0)
                    add_band(words, halves, band, q, scale, sums, t, out)

    return run


def linear_plain(x, matrix, threads=None):  # (n, columns) float32, PackedMatrix -> (n, rows)
    """As linear.linear, for a packed matrix of any layout."""
    x, y = np.ascontiguousarray(x, np.float32), np.empty((len(x), len(matrix.records) * BAND), np.float32)
    words, halves = matrix.records.view(np.uint32), matrix.records.view(np.uint16)
    plain_kernel(matrix.number)(x, words, halves, y, threads or numba.get_num_threads())
    return y[:, : matrix.shape[0]]
