"""The step of tile.py on a matrix unit: one instruction multiplies sixteen rows by sixteen tokens by 32 columns.

The unit (amx.py) multiplies bfloat16 numbers, which have 8 bits, and adds up in float32, which has 24. That is enough to compute
with whole numbers and lose nothing: a code of up to 8 bits, or what a table has for it, is a bfloat16; x, rounded to 16 bits, is
the sum of two, its upper and its lower byte; and products of 4-bit codes in a group add up to less than 2^24, so that float32
holds every sum on the way. The result is that of tile.py, bit for bit.

    x        two tiles:  row t:          x(0) x(1) … x(31)                  the upper bytes, times 256, and the lower bytes
    codes    one tile:   row p, lane r:  code(r, 2p) │ code(r, 2p + 1)      less the offset
    sums     one tile:   row t, lane r:  dot(r, t)                          float32

Larger codes have a tile of sums for each half of x: dot = upper + lower, rounded once, as tile.py rounds.

A tile of sums can only be stored whole, so it passes through the first cache to the registers that scale it. Loops as in
sketches.blocked_matmul, so that all the rest stays in that cache too:

    for 32 tokens:  for 8 records of a band:  factors of x
        for each band:  codes
            for 16 tokens:  for each record:  multiply the next record, and meanwhile scale the sums of this one
"""

from functools import partial

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from minillm.backends.numba_.amx import add_product, columns_of, configure, each, least, load, release, room, store, zero
from minillm.backends.numba_.layouts import LAYOUT_LIST
from minillm.backends.numba_.loops import loop_with_sums
from minillm.backends.numba_.simd import F32, F32X16, I32, I32X16, LANES, address, call, constant, splat_scalar
from minillm.backends.numba_.tile import I64, SHORTS, TileEmitter

WORDS = ir.VectorType(ir.IntType(16), 2 * LANES)
PAIRS = 16  # of columns in a record: rows of a tile of codes
RECORDS, TOKENS = 8, 32  # of a block of the loops
UPPER, LOWER, SUMS, LOWER_SUMS, CODES = range(5)  # the tiles
UPPER_BYTE, LOWER_BYTE = -256, 255  # of a 16-bit number


@intrinsic
def split_block(typing, q, parts, block):
    """Split 32 numbers of 16 bits in two, each a bfloat16 number: parts[64 · block …] = upper and lower bytes."""

    def emit(context, b, signature, args):
        q, parts, block = args
        for half in (0, 1):
            at = address(context, b, signature.args[0], q, b.add(b.mul(block, I64(32)), I64(16 * half)))
            whole = b.sext(b.load(b.bitcast(at, SHORTS.as_pointer()), align=2), I32X16)
            for i, bits in enumerate((UPPER_BYTE, LOWER_BYTE)):
                part = b.bitcast(b.sitofp(b.and_(whole, constant(bits, I32)), F32X16), I32X16)
                to = address(context, b, signature.args[1], parts, b.add(b.mul(block, I64(64)), I64(32 * i + 16 * half)))
                b.store(b.trunc(b.lshr(part, constant(16, I32)), SHORTS), b.bitcast(to, SHORTS.as_pointer()), align=2)
        return context.get_dummy_value()

    return types.void(q, parts, types.intp), emit


@intrinsic(prefer_literal=True)
def bands_on_matrix_unit(typing, layout, first, last, add, records, blocks, parts, scales, sums, n, y, y_stride):
    """y[t, rows] = (add · y[t, rows]) + W x[t] for bands first … last - 1 and n tokens, a multiple of 16.

    layout is a constant, arrays are addresses. parts: (n, 2 · columns) bfloat16, as split_block makes them, and else as for
    tile.band_times_tokens. All are read to up to 128 bytes beyond their end.
    """
    if not isinstance(layout, types.Literal):
        return None
    constant_layout = LAYOUT_LIST[layout.literal_value]

    def codegen(context, builder, signature, args):
        step = ir.Function(builder.module, ir.FunctionType(ir.VoidType(), [I64] * 11), "bands_on_matrix_unit")
        step.linkage = "internal"
        inside = ir.IRBuilder(step.append_basic_block())
        MatrixEmitter(constant_layout, LANES).emit(inside, *step.args)
        inside.ret_void()
        builder.call(step, args[1:])
        return context.get_dummy_value()

    return types.void(layout, *[types.int64] * 11), codegen


class MatrixEmitter(TileEmitter):
    """Emits the code for one layout."""

    def __init__(self, layout, tokens):
        super().__init__(layout, tokens)
        largest = np.abs(layout.values).max()
        self.halves = 1 if largest * 32767 * layout.span < 1 << 24 else 2  # of x that have sums of their own
        self.kinds = 1 + layout.minima * self.groups  # vectors of factors: scales of x of 16 tokens, sums of x in each group
        self.rows = PAIRS // self.groups  # of a tile of codes

    def emit(self, b, first, last, add, records, blocks, parts, scales, sums, n, y, y_stride):
        """Emit the loops."""
        self.blocks, self.scales, self.sums = blocks, scales, sums
        self.codes_room = room(b, (RECORDS * self.groups + 1) * self.rows)
        self.factors_room = room(b, TOKENS // LANES * RECORDS * self.kinds)
        self.sums_room = room(b, 2 * self.halves * LANES)
        sums_shape, x_shape = (LANES, 64), (LANES, 2 * self.layout.span)
        configure(b, {UPPER: x_shape, LOWER: x_shape, CODES: (self.rows, 64), SUMS: sums_shape, LOWER_SUMS: sums_shape})
        with each(b, I64(0), n, TOKENS) as token:
            tokens = least(b, b.sub(n, token), TOKENS)
            with each(b, I64(0), blocks, RECORDS) as block:
                count = least(b, b.sub(blocks, block), RECORDS)
                with each(b, I64(0), tokens, LANES) as group:
                    self.collect_factors(b, b.add(token, group), block, self.factors_of(b, group))
                adding = b.or_(b.icmp_signed("!=", add, I64(0)), b.icmp_signed(">", block, I64(0)))
                with each(b, first, last, 1) as band:
                    here = b.add(records, b.mul(b.add(b.mul(band, blocks), block), I64(self.layout.block_bytes)))
                    with each(b, I64(0), count, 1) as i:
                        self.unpack(b, self.record(b, here, i), i)
                    with each(b, I64(0), tokens, LANES) as group:
                        y_at = b.add(b.mul(b.add(token, group), y_stride), b.mul(band, I64(LANES)))
                        places = [b.add(y, b.mul(b.add(y_at, b.mul(y_stride, I64(t))), I64(4))) for t in range(LANES)]
                        x = b.add(parts, b.mul(b.add(b.mul(b.add(token, group), blocks), block), I64(128)))
                        self.tokens_times_band(b, x, count, here, adding, places, self.factors_of(b, group))
        release(b)

    def record(self, b, records, i):  # address of eight blocks -> address of record i of them
        before = b.and_(i, I64(self.layout.together - 1))  # records between it and its head
        first = b.add(self.head(b, records, i), I64(self.layout.head_bytes))
        return b.add(first, b.mul(before, I64(self.layout.record_bytes)))

    def head(self, b, records, i):  # address of eight blocks -> address of the head of record i, or of the record
        heads = b.lshr(i, I64(self.layout.together.bit_length() - 1))
        return b.add(records, b.mul(heads, I64(self.layout.together * self.layout.block_bytes)))

    def factors_of(self, b, group):  # how many tokens come before it in the block -> pointer
        return b.gep(self.factors_room, [b.mul(b.lshr(group, I64(4)), I64(RECORDS * self.kinds))])

    def collect_factors(self, b, token, block, to):
        """Collect what the sums of sixteen tokens are multiplied with, for eight blocks: a row of each token, turned."""
        at = b.add(b.mul(token, self.blocks), block)
        scales = columns_of(b, b.add(self.scales, b.mul(at, I64(4))), b.mul(self.blocks, I64(4)))
        if self.layout.minima:
            sums = columns_of(b, b.add(self.sums, b.mul(at, I64(8))), b.mul(self.blocks, I64(8)))
        for i in range(RECORDS):
            b.store(scales[i], b.gep(to, [I64(i * self.kinds)]), align=64)
            if self.layout.minima:
                halves = sums[2 * i : 2 * i + 2]
                for g, x_sum in enumerate(halves if self.groups == 2 else [b.add(*halves)]):
                    b.store(b.bitcast(b.sitofp(x_sum, F32X16), I32X16), b.gep(to, [I64(i * self.kinds + 1 + g)]), align=64)

    def unpack(self, b, record, i):
        """Unpack record i of these: its codes as bfloat16 numbers."""
        self.prefetch(b, b.add(record, b.mul(self.blocks, I64(self.layout.block_bytes))))  # the same of the next band
        to, convert = b.gep(self.codes_room, [b.mul(i, I64(PAIRS))]), self.table(b) if self.layout.bits <= 5 else self.converted
        for pair in range(PAIRS):
            b.store(convert(b, self.codes(b, record, pair)), b.gep(to, [I64(pair)]), align=64)

    def table(self, b):
        """Look a code up among the 32 numbers of a register."""
        values = np.resize(self.layout.values, 32)  # again and again
        words = (values.view(np.uint32) >> 16).tolist()
        table = ir.Constant(WORDS, words)

        def look_up(b, codes):
            found = call(b, "llvm.x86.avx512.permvar.hi.512", WORDS, table, b.bitcast(codes, WORDS))
            return b.bitcast(found, I32X16)

        return look_up

    def converted(self, b, codes):
        """Convert two codes a lane."""
        halves = b.and_(codes, constant(0xFFFF, I32)), b.lshr(codes, constant(16, I32))
        low, high = (b.bitcast(b.sitofp(b.sub(half, constant(self.layout.offset, I32)), F32X16), I32X16) for half in halves)
        return b.or_(b.lshr(low, constant(16, I32)), high)

    def tokens_times_band(self, b, x, count, records, adding, places, factors):
        """Multiply sixteen tokens and some records of a band."""
        places = [b.inttoptr(place, F32X16.as_pointer()) for place in places]
        totals = [b.select(adding, b.load(place, align=4), constant(0.0)) for place in places]
        for emit in self.multiply(b, I64(0), x):
            emit()

        def step(i, totals):
            return self.scale_sums(b, i, records, factors, totals, self.multiply(b, b.add(i, I64(1)), x))

        for place, total in zip(places, loop_with_sums(b, b.mul(count, I64(self.groups)), totals, step), strict=True):
            b.store(total, place, align=4)

    def multiply(self, b, step, x):  # -> what emits one instruction each
        """Multiply the columns of one group. There is room for a step more than there are, whose result is not used."""
        codes, to = b.gep(self.codes_room, [b.mul(step, I64(self.rows))]), self.sums_of(b, step)
        i, g = self.place(b, step)
        upper = b.add(x, b.add(b.mul(i, I64(128)), b.mul(g, I64(32))))
        upper, lower = (b.inttoptr(b.add(upper, I64(64 * half)), I32.as_pointer()) for half in (0, 1))
        apart, sums = b.mul(self.blocks, I64(128)), SUMS if self.halves == 1 else LOWER_SUMS
        work = [(load, CODES, codes, I64(64)), (load, UPPER, upper, apart), (zero, SUMS), (add_product, SUMS, UPPER, CODES)]
        work += [(load, LOWER, lower, apart)] + [(zero, LOWER_SUMS)] * (self.halves - 1) + [(add_product, sums, LOWER, CODES)]
        work += [(store, SUMS, to), (store, LOWER_SUMS, b.gep(to, [I64(LANES)]))][: self.halves]
        return [partial(instruction, b, *operands) for instruction, *operands in work]

    def place(self, b, step):  # -> record, group
        return (b.lshr(step, I64(1)), b.and_(step, I64(1))) if self.groups == 2 else (step, I64(0))

    def sums_of(self, b, step):  # -> pointer to the sums of a step: two have room
        return b.gep(self.sums_room, [b.mul(b.and_(step, I64(1)), I64(self.halves * LANES))])

    def scale_sums(self, b, step, records, factors, totals, meanwhile):
        """Add the sums of a group to y, scaled."""
        i, g = self.place(b, step)
        record = b.add(self.record(b, records, i), b.mul(g, I64(self.layout.scale_bytes)))
        units = self.units(b, self.head(b, records, i)) if self.layout.head_bytes else ()
        scale = self.scale(b, record, 0, units)
        minimum = self.layout.minima and self.minimum(b, record, 0, units)
        factors = b.gep(factors, [b.mul(i, I64(self.kinds))])
        dots, x_scales, x_sums = (
            b.bitcast(place, kind.as_pointer())
            for place, kind in ((self.sums_of(b, step), F32X16), (factors, F32), (b.gep(factors, [b.add(g, I64(1))]), F32))
        )
        found = []
        for t, total in enumerate(totals):
            if t % 2 == 0 and meanwhile:
                meanwhile.pop(0)()
            dot = b.load(b.gep(dots, [I64(t)]), align=64)
            if self.halves == 2:
                dot = b.fadd(dot, b.load(b.gep(dots, [I64(LANES + t)]), align=64))
            value = b.fmul(dot, scale)
            if minimum:
                value = b.fsub(value, b.fmul(minimum, splat_scalar(b, b.load(b.gep(x_sums, [I64(t)]), align=4))))
            x_scale = splat_scalar(b, b.load(b.gep(x_scales, [I64(t)]), align=4))
            found.append(call(b, "llvm.fma.v16f32", F32X16, value, x_scale, total))
        for emit in meanwhile:
            emit()
        return found
