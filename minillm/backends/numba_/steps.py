"""From the naive loop to the last kernel: one product, y = W x with W in 4 bits, in steps that are each measured.

    minillm bench kernels

Every step is a function (x, matrix) -> y over the same Q4_1 weights, and changes one thing:

    row_by_row       each weight becomes a float, is multiplied, and is added to one sum: a chain, each link 4 cycles
    by_blocks        the scale comes out of the sum, and the sum may be reordered: SIMD, and a horizontal sum per block
    lanes_float      16 rows side by side: nothing is added across lanes any more
    lanes_integer    x rounded to 16 bits: codes are multiplied as they are, no conversion to float
    two_cores        the bands shared out
    vector_step      the step of tile.py: one instruction for two products and their sum
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

from minillm.backends.numba_.compiled import kernel
from minillm.backends.numba_.linear import FRESH, linear, linear_kernel, room, round_row
from minillm.backends.numba_.packed import LAYOUT_LIST, LAYOUTS
from minillm.backends.numba_.plain import half, linear_plain
from minillm.backends.numba_.tile import Step

Q4_1 = LAYOUT_LIST.index(LAYOUTS["Q4_1"])
DOTS = ("vpdpwssd", "vpmaddwd")  # x86: 16-bit pairs multiplied and added, with and without accumulating


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
def band_in_float(x, sums, words, halves, band, y):
    """One band of packed.py, with floats: lane `row` of each vector belongs to a row."""
    for b in range(words.shape[1]):
        for row in range(16):
            dot = np.float32(0)
            for i in range(4):
                for pair in range(4):
                    two = words[band, b, 16 * i + row] >> 4 * pair
                    dot += np.float32(np.int32(two & 15)) * x[32 * b + 8 * i + 2 * pair]
                    dot += np.float32(np.int32(two >> 16 & 15)) * x[32 * b + 8 * i + 2 * pair + 1]
            y[row] += half(halves[band, b, 128 + row]) * dot - half(halves[band, b, 144 + row]) * sums[b]


@kernel()
def bands_in_float(x, words, halves, y):
    sums = np.empty(words.shape[1], np.float32)
    for b in range(len(sums)):
        sums[b] = np.sum(x[32 * b : 32 * b + 32])
    y[:] = np.float32(0)
    for band in range(len(words)):
        band_in_float(x, sums, words, halves, band, y[16 * band : 16 * band + 16])


class Unprepared(Step):
    """The vector step without its prefetch."""

    def prefetch(self, b, record):
        pass


@intrinsic(prefer_literal=True)
def band_unprepared(typing, tokens, layout, add, records, blocks, x, scales, sums, n_columns, y, y_stride):
    """tile.band_times_tokens, with an Unprepared step."""
    if not all(isinstance(a, types.Literal) for a in (tokens, layout, add)):
        return None
    step = Unprepared(LAYOUT_LIST[layout.literal_value], tokens.literal_value, add.literal_value)

    def codegen(context, builder, signature, args):
        step.emit(builder, *args[3:])
        return context.get_dummy_value()

    return types.void(tokens, layout, add, *[types.int64] * 8), codegen


@kernel(parallel=True)
def bands_unprepared(x, tape, y, threads):
    """linear_kernel for one token of Q4_1, without prefetch."""
    records, blocks, record_bytes, bands = tape
    codes, scale, sums = room(1, len(x))
    round_row(x, codes[0], scale[0], sums[0])
    for part in prange(threads):
        for band in range(part * bands // threads, (part + 1) * bands // threads):
            at, place = records + band * blocks * record_bytes, y.ctypes.data + 64 * band
            q, s, u = codes.ctypes.data, scale.ctypes.data, sums.ctypes.data
            band_unprepared(1, Q4_1, FRESH, at, blocks, q, s, u, len(x), place, 0)


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
    y = np.empty(matrix.padded_rows, np.float32)
    bands_in_float(x, matrix.records.view(np.uint32), matrix.records.view(np.uint16), y)
    return y[: matrix.shape[0]]


def lanes_integer(x, matrix):
    return linear_plain(x[None], matrix, threads=1)[0]


def two_cores(x, matrix):
    return linear_plain(x[None], matrix)[0]


def vector_step(x, matrix):
    y = np.empty(matrix.padded_rows, np.float32)
    bands_unprepared(x, matrix.tape, y, numba.get_num_threads())
    return y[: matrix.shape[0]]


def prefetched(x, matrix):
    return linear(x[None], matrix)[0]


FILE_ORDER = (row_by_row, by_blocks)
STEPS = (*FILE_ORDER, lanes_float, lanes_integer, two_cores, vector_step, prefetched)


@lru_cache
def instructions_of(layout="Q4_1"):  # -> {x86 dot-product instruction: times it stands in the assembly of the product}
    """Which of DOTS LLVM chose for the vector step. Compiles the product first, where no machine code is kept."""
    from minillm.backends.numba_.packed import LAYOUTS

    matrix = LAYOUT_LIST.index(LAYOUTS[layout])
    signature = (
        types.Array(types.float32, 2, "C"), types.UniTuple(types.int64, 4), types.Array(types.float32, 2, "C"), types.int64,
    )  # fmt: skip
    product = numba.njit(parallel=True, error_model="numpy")(linear_kernel(matrix, FRESH).py_func)
    product.compile(signature)
    code = product.inspect_asm(product.signatures[0])
    return {name: code.count(name) for name in DOTS}
