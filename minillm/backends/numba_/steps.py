"""From the naive loop to the last kernel: one product, y = W x with W in 4 bits, in steps that are each measured.

    minillm bench kernels

Every step is a function (x, matrix) -> y over the same Q4_1 weights, and changes one thing:

    row_by_row       each weight becomes a float, is multiplied, and is added to one sum: a chain, each link 4 cycles
    by_blocks        the scale comes out of the sum, and the sum may be reordered: SIMD, and a horizontal sum per block
    lanes_float      16 rows side by side: nothing is added across lanes any more
    lanes_integer    x rounded to 16 bits: codes are multiplied as they are. No gain yet: one product an instruction
    two_cores        lanes_float, with the bands shared out
    vector_step      lanes_integer by tile.py: one instruction for two products and their sum
    prefetched       memory is asked before its answer is needed (linear.py)
    fused            the whole half layer in one call (layer.py)

The first two read the file's own order, blocks of 20 bytes one row after another; the others the bands of packed.py.

Why does tile.py, which writes LLVM's language, name no instruction of any processor? Because LLVM knows them. It finds
"multiply 16-bit pairs, add neighbours, accumulate" in the code and picks what the processor has: `vpdpwssd` with VNNI,
`vpmaddwd` and an addition on older x86, a few multiply-adds on Arm. `instructions_of` looks into the assembly, and a
test insists. NUMBA_CPU_NAME=haswell (and NUMBA_CPU_FEATURES=+avx2,+fma,+f16c) compiles for an AVX2 machine on any newer
one: half as wide registers, half as many, and no `vpdpwssd`. The bench run under it says what that costs.
"""

from functools import lru_cache

import numba
import numpy as np
from numba import njit, prange, types
from numba.extending import intrinsic

from minillm.backends.numba_.bands import SIGNATURE, bands_times_tokens, operand
from minillm.backends.numba_.compiled import kernel
from minillm.backends.numba_.handles import handle
from minillm.backends.numba_.layouts import BAND, LAYOUT_LIST, LAYOUTS
from minillm.backends.numba_.linear import linear
from minillm.backends.numba_.loops import FRESH, outer_products
from minillm.backends.numba_.multiply import round_row
from minillm.backends.numba_.plain import I32, U32, half, linear_plain
from minillm.backends.numba_.team import threads
from minillm.backends.numba_.tile import TileEmitter

Q4_1 = LAYOUT_LIST.index(LAYOUTS["Q4_1"])
DOTS = ("vpdpwssd", "vpmaddwd")  # x86: 16-bit pairs multiplied and added, with and without accumulating
LOOK_UPS = ("vpermw", "vpshufb")  # x86: a number of a table in each lane, of 16 bits or of 8


@kernel()
def rows_one_by_one(x, raw, y):
    """raw: (rows, blocks, 20), | scale: 2 | minimum: 2 | 16 bytes: columns 0 … 15 in the low halves, 16 … 31 in the high |"""
    for r in range(len(raw)):
        total = np.float32(0)
        for b in range(raw.shape[1]):
            block = raw[r, b]
            scale, least = half(block[0] | block[1] << 8), half(block[2] | block[3] << 8)
            for c in range(32):
                code = block[4 + c] & 15 if c < 16 else block[c - 12] >> 4
                weight = scale * np.float32(code) + least
                total += weight * x[32 * b + c]
        y[r] = total


@kernel(fastmath={"reassoc", "nsz", "contract"})
def rows_by_blocks(x, raw, y):
    """Σ (scale · code + least) · x = scale · Σ code · x + least · Σ x. Sums may be reordered: LLVM makes lanes of them."""
    sums = np.empty(raw.shape[1], np.float32)
    for b in range(len(sums)):
        total = np.float32(0)
        for c in range(32):
            total += x[32 * b + c]
        sums[b] = total
    for r in range(len(raw)):
        total = np.float32(0)
        for b in range(raw.shape[1]):
            block, dot = raw[r, b], np.float32(0)
            for c in range(16):
                two = block[4 + c]
                dot += np.float32(two & 15) * x[32 * b + c] + np.float32(two >> 4) * x[32 * b + 16 + c]
            total += half(block[0] | block[1] << 8) * dot + half(block[2] | block[3] << 8) * sums[b]
        y[r] = total


@njit(error_model="numpy")
def band_in_integers(words, halves, band, q, scale, sums, y):
    """Multiply one band of packed.py by x in 16 bits: lane `row` of each vector belongs to a row."""
    for b in range(words.shape[1]):
        q_sum = np.float32(sums[2 * b] + sums[2 * b + 1])
        for row in range(16):
            dot = I32(0)
            for pair in range(16):
                two = U32(U32(words[band, b, 16 * (pair // 4) + row] >> U32(4 * (pair % 4))) & U32(0x000F000F))
                dot = I32(dot + I32(I32(two & U32(15)) * I32(q[32 * b + 2 * pair])))
                dot = I32(dot + I32(I32(two >> U32(16)) * I32(q[32 * b + 2 * pair + 1])))
            y[row] += scale[b] * (half(halves[band, b, 128 + row]) * np.float32(dot) - half(halves[band, b, 144 + row]) * q_sum)


@kernel()
def bands_in_integers(x, words, halves, y):
    h = operand(x.reshape(1, len(x)))
    round_row(h, 0)
    y[:] = np.float32(0)
    for band in range(len(words)):
        band_in_integers(words, halves, band, h.codes[0], h.scale[0], h.sums[0], y[16 * band : 16 * band + 16])


class Unprepared(TileEmitter):
    """The vector step without its prefetch."""

    def prefetch(self, b, record):
        pass


@intrinsic(prefer_literal=True)
def band_unprepared(typing, tokens, layout, add, records, blocks, x, scales, sums, n_columns, y, y_stride):
    """tile.band_times_tokens, with an Unprepared step."""
    if not all(isinstance(a, types.Literal) for a in (tokens, layout)):
        return None
    step = Unprepared(LAYOUT_LIST[layout.literal_value], tokens.literal_value)

    def codegen(context, builder, signature, args):
        step.emit(builder, *args[2:])
        return context.get_dummy_value()

    return types.void(tokens, layout, *[types.int64] * 9), codegen


@kernel(parallel=True)
def bands_unprepared(h, handle, y, count):
    """linear.times_tokens for one token of Q4_1, without prefetch."""
    bands, columns = handle.bands, h.x.shape[1]
    round_row(h, 0)
    for part in prange(count):
        for band in range(part * bands // count, (part + 1) * bands // count):
            at, place = handle.records + band * handle.blocks * handle.record_bytes, y.ctypes.data + 64 * band
            codes, scale, sums = h.codes.ctypes.data, h.scale.ctypes.data, h.sums.ctypes.data
            band_unprepared(1, Q4_1, FRESH, at, handle.blocks, codes, scale, sums, columns, place, 0)


# --- the other way for many tokens: a band of weights made float32 first, then a product of floats ----------------------------


@njit(error_model="numpy")
def unpack_band(words, halves, band, at, lanes, numbers, out):
    """Unpack a band: out[c, at + row] = W[16 · band + row, c].

    out: (columns, 64), flat. numbers: scratch for 16 scales and 16 minima. lanes is 16: as an
    argument, so that LLVM keeps the loops over rows and makes vectors of them, instead of unrolling.
    """
    for b in range(words.shape[1]):
        for i in range(2 * lanes):
            numbers[i] = half(halves[band, b, 128 + i])
        for column in range(32):
            shift, place = U32(4 * (column // 2 % 4) + 16 * (column % 2)), 64 * (32 * b + column) + at
            for row in range(lanes):
                code = I32(U32(words[band, b, 16 * (column // 8) + row] >> shift) & U32(15))
                out[place + row] = numbers[row] * np.float32(code) - numbers[16 + row]


@kernel(parallel=True)
def through_floats(x, words, halves, y, threads, lanes):
    """Unpack four bands at a time to float32, in a scratch that stays in the core's cache, then use floats.py's product."""
    n, columns, stride, fours = len(x), x.shape[1], y.shape[1], y.shape[1] // 64
    flat_x, flat_y = x.reshape(-1), y.reshape(-1)
    for part in prange(threads):
        weights, numbers = np.zeros(columns * 64, np.float32), np.empty(32, np.float32)
        for four in range(part * fours // threads, (part + 1) * fours // threads):
            for band in range(4 * four, min(4 * four + 4, len(words))):
                unpack_band(words, halves, band, 16 * (band - 4 * four), lanes, numbers, weights)
            t = 0
            while t < n:
                place = t * stride + 64 * four
                if t + 6 <= n:
                    outer_products(flat_y, place, stride, flat_x, t * columns, columns, weights, 0, 64, columns, 6, 4, FRESH)
                    t += 6
                else:
                    outer_products(flat_y, place, stride, flat_x, t * columns, columns, weights, 0, 64, columns, 1, 4, FRESH)
                    t += 1


def dequantized(x, matrix):  # (n, columns), PackedMatrix -> (n, rows)
    """Compute linear.linear by way of float32 weights."""
    y = np.empty((len(x), -(-matrix.padded_rows // 64) * 64), np.float32)
    words, halves = matrix.records.view(np.uint32), matrix.records.view(np.uint16)
    through_floats(x, words, halves, y, threads(), BAND)
    return y[:, : matrix.shape[0]]


@kernel()
def round_by_one(h):
    for t in range(len(h.x)):
        round_row(h, t)


@kernel(parallel=True)
def round_by_all(h):
    for t in prange(len(h.x)):
        round_row(h, t)


# --- the steps, all called alike: x (columns,), raw (rows, blocks, 20) uint8 or a PackedMatrix -> (rows,) --------------------


def row_by_row(x, raw):
    y = np.empty(len(raw), np.float32)
    rows_one_by_one(x, raw, y)
    return y


def by_blocks(x, raw):
    y = np.empty(len(raw), np.float32)
    rows_by_blocks(x, raw, y)
    return y


def lanes_float(x, matrix):
    return linear_plain(x[None], matrix, count=1)[0]


def lanes_integer(x, matrix):
    y = np.empty(matrix.padded_rows, np.float32)
    bands_in_integers(x, matrix.records.view(np.uint32), matrix.records.view(np.uint16), y)
    return y[: matrix.shape[0]]


def two_cores(x, matrix):
    return linear_plain(x[None], matrix)[0]


def vector_step(x, matrix):
    y = np.empty(matrix.padded_rows, np.float32)
    bands_unprepared(operand(x.reshape(1, -1)), handle(matrix), y, threads())
    return y[: matrix.shape[0]]


def prefetched(x, matrix):
    return linear(x[None], matrix)[0]


FILE_ORDER = (row_by_row, by_blocks)
STEPS = (*FILE_ORDER, lanes_float, lanes_integer, two_cores, vector_step, prefetched)


@lru_cache
def instructions_of(layout="Q4_1", names=DOTS):  # -> {x86 instruction: times it stands in the assembly of the product}
    """Find which of these LLVM chose for the vector step. Compiles the product first, where no machine code is kept."""
    number = LAYOUT_LIST.index(LAYOUTS[layout])
    code = numba.njit(SIGNATURE, error_model="numpy")(bands_times_tokens(number).__wrapped__).inspect_asm(SIGNATURE.args)
    return {name: code.count(name) for name in names}
