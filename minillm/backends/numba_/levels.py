"""The step of tile.py for codes that name levels: NF4, whose sixteen levels are floats and no whole numbers.

Rounded to whole numbers, as tile.py multiplies them, levels would lose bits. So a code becomes its level in a register, and x is
multiplied as it is, in float32. The sixteen levels fill one register, and one instruction looks a code up in every lane:

    word     lane r:   eight codes of row r                       of which a lookup sees the lowest four bits
    level    lane r:   level[code(r, c)]                          move the word down, permute the levels
    sums     lane r:   += level · x(c)                            even and odd columns apart: two chains, each half as long

After each record y += scale · (even + odd). A processor with registers of eight numbers looks up in each half of the levels, and
the fourth bit of the code chooses; others look up one lane after another, which is slow.

To a kernel it is a handle like any other (bands.py); as for floats.py, nothing is rounded for it.
"""

from functools import lru_cache

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from minillm.backends.numba_.bands import SIGNATURE
from minillm.backends.numba_.compiled import code
from minillm.backends.numba_.crossover import TOKENS
from minillm.backends.numba_.layouts import LAYOUT_LIST
from minillm.backends.numba_.loops import loop_with_sums
from minillm.backends.numba_.processor import FEATURES
from minillm.backends.numba_.simd import F32, F32X16, I32, LANES, call, constant, splat_scalar
from minillm.backends.numba_.tile import I64, PREFETCH_AHEAD, TileEmitter, number

EIGHT_F32, EIGHT_I32 = ir.VectorType(F32, 8), ir.VectorType(I32, 8)


@intrinsic(prefer_literal=True)
def band_times_floats(typing, tokens, layout, levels, add, records, blocks, x, n_columns, y, y_stride):
    """y[t, :16] = (add · y[t, :16]) + band · x[t] for t < tokens. tokens and layout are constants, arrays addresses.

    levels: (16,) float32. x: (tokens, n_columns) float32; y: float32, rows y_stride apart.
    """
    if not all(isinstance(a, types.Literal) for a in (tokens, layout)):
        return None
    emitter = LevelsEmitter(LAYOUT_LIST[layout.literal_value], tokens.literal_value)

    def codegen(context, builder, signature, args):
        emitter.emit_floats(builder, *args[2:])
        return context.get_dummy_value()

    return types.void(tokens, layout, *[types.int64] * 8), codegen


class LevelsEmitter(TileEmitter):
    """Emits the code for one layout and number of tokens."""

    def emit_floats(self, b, levels, add, records, blocks, x, n_columns, y, y_stride):
        """Emit the loop over the records of a band, with one float accumulator per token in a register."""
        tokens, layout = range(self.tokens), self.layout
        places = [b.inttoptr(b.add(y, b.mul(y_stride, I64(4 * t))), F32X16.as_pointer()) for t in tokens]
        adding = b.icmp_signed("!=", add, I64(0))
        totals = [b.select(adding, b.load(place, align=4), constant(0.0)) for place in places]
        table = b.load(b.inttoptr(levels, F32X16.as_pointer()), align=4)

        def fold(i, totals):
            at = b.add(records, b.mul(i, I64(layout.block_bytes)))
            self.prefetch(b, b.add(at, I64(PREFETCH_AHEAD)))
            record, (scale, *_) = self.record_and_units(b, at, i)
            x_rows = [b.add(x, b.mul(I64(4), b.add(b.mul(n_columns, I64(t)), b.mul(i, I64(32))))) for t in tokens]
            sums = [[constant(0.0), constant(0.0)] for _ in tokens]  # even columns, odd columns
            for column in range(32):
                level, side = self.level(b, table, record, column), column % 2
                for row, two in zip(x_rows, sums, strict=True):
                    value = splat_scalar(b, number(b, F32, row, I64(4 * column)))
                    two[side] = call(b, "llvm.fma.v16f32", F32X16, level, value, two[side])
            dots = [b.fadd(*two) for two in sums]
            return [call(b, "llvm.fma.v16f32", F32X16, dot, scale, total) for dot, total in zip(dots, totals, strict=True)]

        for place, total in zip(places, loop_with_sums(b, blocks, totals, fold), strict=True):
            b.store(total, place, align=4)

    def level(self, b, table, record, column):
        """Look up the codes of a column, packed.place says where they are: sixteen rows, a float each."""
        word, shift = self.word(b, record, 64 * (column // 8)), 4 * (column // 2 % 4) + 16 * (column % 2)
        if "+avx512f" in FEATURES:
            return call(b, "llvm.x86.avx512.permvar.sf.512", F32X16, table, moved(b, word, shift))
        if "+avx2" in FEATURES:
            return in_halves(b, table, moved(b, word, shift), shifted_up(b, word, 28 - shift))
        return one_by_one(b, table, b.and_(moved(b, word, shift), constant(15, I32)))


def moved(b, word, shift):  # down
    return b.lshr(word, constant(shift, I32)) if shift else word


def shifted_up(b, word, shift):
    return b.shl(word, constant(shift, I32)) if shift else word


def in_halves(b, table, index, signs):
    """Look up eight lanes at a time in eight levels, of which three bits number one. signs: the fourth bit as the highest."""
    halves = []
    low, high = (some_lanes(b, table, first) for first in (0, 8))
    for first in (0, 8):
        eight = some_lanes(b, index, first)
        below, above = (call(b, "llvm.x86.avx2.permps", EIGHT_F32, half, eight) for half in (low, high))
        negative = b.icmp_signed("<", some_lanes(b, signs, first), ir.Constant(EIGHT_I32, [0] * 8))
        halves.append(b.select(negative, above, below))
    return b.shuffle_vector(*halves, constant(range(LANES), I32))


def some_lanes(b, vector, first):  # sixteen lanes -> eight of them
    return b.shuffle_vector(vector, vector, ir.Constant(EIGHT_I32, list(range(first, first + 8))))


def one_by_one(b, table, index):
    found = ir.Constant(F32X16, ir.Undefined)
    for lane in range(LANES):
        found = b.insert_element(found, b.extract_element(table, b.extract_element(index, I32(lane))), I32(lane))
    return found


@lru_cache
def bands_times_tokens(layout):  # number of a layout -> what has `.address`
    """Compile the code for a layout: bands first … last - 1 times all tokens. See bands.py."""
    levels = np.ascontiguousarray(LAYOUT_LIST[layout].values)  # a constant of the code, and of the name under which it is kept

    @code(SIGNATURE)
    def run(first, last, add, records, blocks, record_bytes, rows, codes, scales, sums, parts, n, y, stride):
        table, columns = levels.ctypes.data, 32 * blocks
        for band in range(first, last):
            at, t = records + band * blocks * record_bytes, 0
            while t < n:
                x, place = rows + 4 * columns * t, y + 4 * (t * stride + 16 * band)
                if t + TOKENS <= n:
                    band_times_floats(TOKENS, layout, table, add, at, blocks, x, columns, place, stride)
                    t += TOKENS
                elif t + 4 <= n:
                    band_times_floats(4, layout, table, add, at, blocks, x, columns, place, stride)
                    t += 4
                elif t + 2 <= n:
                    band_times_floats(2, layout, table, add, at, blocks, x, columns, place, stride)
                    t += 2
                else:
                    band_times_floats(1, layout, table, add, at, blocks, x, columns, place, stride)
                    t += 1

    return run
