"""The innermost step: one band of 16 rows times a few tokens, without leaving the registers.

For each record of the band, codes are unpacked once and used for all T tokens:

    codes     lane r:  code(r, 0) │ code(r, 1)      two 16-bit numbers in a lane of 32, one lane a row
    x         lane r:     x(0)    │    x(1)         the same pair of columns for all rows: one number, broadcast
    dot       lane r:  += code(r, 0) · x(0) + code(r, 1) · x(1)                        exact, in 32-bit integers

x is rounded to 16 bits (`round_block`), finer than the float32 result can tell. After each group of columns
the integer sums become floats: y += scale · x_scale · (sum - offset · Σx) - minimum · x_scale · Σx. What is loaded of a
record, and how it becomes codes and scales, is in records.py.

Where x is rounded to 8 bits (backends/activations.py), a lane has four columns in place of two, and half as many steps do:

    codes     lane r:  code(r, 0) │ code(r, 4) │ code(r, 1) │ code(r, 5)      as one mask gives them, packed.py says why
    x         lane r:     x(0)    │    x(4)    │    x(1)    │    x(5)         round_block stores x in this order
    dot       lane r:  += four products                                       unsigned code · signed x; 255 · 127 · 32 fits

Numba has no type for a SIMD register, so this module writes the step in LLVM's own language, through an `@intrinsic`: a
Python function that runs at compile time and emits instructions. LLVM knows
that "multiply 16-bit pairs, add neighbours, accumulate" is one instruction on x86 (`vpmaddwd`, with VNNI `vpdpwssd`) and
a short sequence on Arm. Of bytes it does not, so `dot_fours` names `vpdpbusd` where there is one, and else takes pairs twice. The
loops over T and over pairs run here, in Python: the code that comes out is straight.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from minillm.backends.numba_.layouts import LAYOUT_LIST
from minillm.backends.numba_.loops import loop_with_sums
from minillm.backends.numba_.processor import VNNI
from minillm.backends.numba_.records import HALVES_I16, Records
from minillm.backends.numba_.simd import (
    F32,
    F32X16,
    I32,
    I32X16,
    LANES,
    address,
    call,
    constant,
    largest,
    load_vector,
    splat_scalar,
)

I16, I64 = ir.IntType(16), ir.IntType(64)
SHORTS, BYTES = ir.VectorType(ir.IntType(16), LANES), ir.VectorType(ir.IntType(8), LANES)
HALVES_I32 = ir.VectorType(I32, 2 * LANES)
MASK_ORDER = [8 * eight + column for eight in (0, 1) for column in (0, 4, 1, 5, 2, 6, 3, 7)]  # of sixteen columns
PREFETCH_AHEAD = 8192  # bytes; memory answers after some hundred steps, so it is asked that much earlier


@intrinsic(prefer_literal=True)
def band_times_tokens(typing, tokens, layout, x_bits, add, records, blocks, x, scales, sums, n_columns, y, y_stride):
    """y[t, :16] = (add · y[t, :16]) + band · x[t] for t < tokens. tokens, layout and x_bits are constants, arrays addresses.

    x: (tokens, n_columns) int16 or int8, scales: (tokens, blocks) float32 and sums: (tokens, 2 · blocks), as round_block
    makes them; y: float32, rows y_stride apart.
    """
    if not all(isinstance(a, types.Literal) for a in (tokens, layout, x_bits)):
        return None
    constants = layout.literal_value, tokens.literal_value, x_bits.literal_value

    def codegen(context, builder, signature, args):
        builder.call(step_function(builder.module, *constants), args[3:])
        return context.get_dummy_value()

    return types.void(tokens, layout, x_bits, *[types.int64] * 9), codegen


def step_function(module, layout, tokens, x_bits):  # -> LLVM function
    """Make the step a function of its own: a kernel that takes it for three matrices contains and compiles it once."""
    name = f"band_times_tokens.{layout}.{tokens}.{x_bits}"
    if (there := module.globals.get(name)) is not None:
        return there
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * 9), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    builder = ir.IRBuilder(function.append_basic_block())
    (ByteEmitter if x_bits == 8 else TileEmitter)(LAYOUT_LIST[layout], tokens).emit(builder, *function.args)
    builder.ret_void()
    return function


@intrinsic
def round_block(typing, x, i, bits, q, first, scale, sums, block):
    """Round 32 numbers to 16 bits: x[i …] ≈ scale[block] · q[first …], and the sums of q over each half of them. Or to 8 bits:
    q are bytes then, in MASK_ORDER, and sums float32: scale · Σq of the block, and of its first half.

    A block of zeros has scale 0. NaN or infinity in x makes the scale NaN, and so the products: nothing is hidden.
    """

    def emit(context, b, signature, args):
        x, i, bits, q, first, scale, sums, block = args
        small = b.icmp_signed("==", bits, I64(8))
        start = address(context, b, signature.args[0], x, i)
        halves = [load_vector(b, b.gep(start, [I64(16 * half)]), types.float32) for half in (0, 1)]
        sizes = [call(b, "llvm.fabs.v16f32", F32X16, half) for half in halves]
        top = largest(b, b.select(b.fcmp_ordered(">", *sizes), *sizes))
        inverse = b.select(b.fcmp_ordered(">", top, F32(0.0)), b.fdiv(b.select(small, F32(127.0), F32(32767.0)), top), F32(0.0))
        poison = b.fmul(b.fadd(*halves), constant(0.0))  # 0, or NaN
        poisoned = b.icmp_unsigned("!=", b.bitcast(b.fcmp_unordered("uno", poison, poison), I16), I16(0))
        found = b.select(poisoned, F32(float("nan")), b.fmul(top, b.select(small, F32(1 / 127), F32(1 / 32767))))
        b.store(found, address(context, b, signature.args[5], scale, block))
        numbers = []
        for values in halves:
            rounded = call(b, "llvm.rint.v16f32", F32X16, b.fmul(values, splat_scalar(b, inverse)))
            numbers.append(b.fptosi(rounded, I32X16))
        codes = b.ptrtoint(address(context, b, signature.args[3], q, I64(0)), I64)
        totals, to = two_sums(b, *numbers), address(context, b, signature.args[6], sums, b.mul(block, I64(2)))
        with b.if_else(small) as (eight, sixteen):
            with eight:
                for half, values in enumerate(numbers):
                    place = b.inttoptr(b.add(codes, b.add(first, I64(16 * half))), BYTES.as_pointer())
                    values = b.trunc(values, BYTES)
                    b.store(b.shuffle_vector(values, values, constant(MASK_ORDER, I32)), place, align=1)
                one, other = (b.extract_element(totals, I32(half)) for half in (0, 1))
                for i, total in enumerate((b.add(one, other), one)):
                    b.store(b.fmul(b.sitofp(total, F32), found), b.bitcast(b.gep(to, [I64(i)]), F32.as_pointer()), align=4)
            with sixteen:
                for half, values in enumerate(numbers):
                    place = b.inttoptr(b.add(codes, b.mul(b.add(first, I64(16 * half)), I64(2))), SHORTS.as_pointer())
                    b.store(b.trunc(values, SHORTS), place, align=2)
                b.store(totals, b.bitcast(to, totals.type.as_pointer()), align=4)
        return context.get_dummy_value()

    i64 = types.intp
    return types.void(x, i64, i64, q, i64, scale, sums, i64), emit


def two_sums(b, one, other):  # two vectors of integers -> <2 x int32>: the sum of each
    """Fold both at once: after the first step, half of the lanes are sums of the one, half of the other."""
    halves = [list(range(first, first + 8)) + list(range(first + 16, first + 24)) for first in (0, 8)]
    total = b.add(*[b.shuffle_vector(one, other, constant(half, I32)) for half in halves])
    for step in (4, 2, 1):
        total = b.add(total, b.shuffle_vector(total, total, constant([lane ^ step for lane in range(LANES)], I32)))
    return b.shuffle_vector(total, total, ir.Constant(ir.VectorType(I32, 2), [0, 8]))


class TileEmitter(Records):
    """Emits the code for one layout and number of tokens."""

    x_bits, sum_kind = 16, I32

    def __init__(self, layout, tokens):
        super().__init__(layout)
        self.tokens = tokens

    def emit(self, b, add, records, blocks, x, scales, sums, n_columns, y, y_stride):
        """Emit the loop over the records of a band, with one float accumulator per token in a register."""
        tokens = range(self.tokens)
        places = [b.inttoptr(b.add(y, b.mul(y_stride, I64(4 * t))), F32X16.as_pointer()) for t in tokens]
        adding = b.icmp_signed("!=", add, I64(0))
        totals = [b.select(adding, b.load(place, align=4), constant(0.0)) for place in places]

        def fold(i, totals):
            at = b.add(records, b.mul(i, I64(self.layout.block_bytes)))
            self.prefetch(b, b.add(at, I64(PREFETCH_AHEAD)))
            record, units = self.record_and_units(b, at, i) if self.layout.head_bytes else (at, ())
            x_rows = [b.add(x, b.mul(I64(self.x_bits // 8), b.add(b.mul(n_columns, I64(t)), b.mul(i, I64(32))))) for t in tokens]
            index = [b.add(b.mul(blocks, I64(t)), i) for t in tokens]
            x_scale = [number(b, F32, scales, b.mul(at, I64(4))) for at in index]
            sums_at = [b.mul(at, I64(8)) for at in index]
            halves = [[number(b, self.sum_kind, sums, b.add(at, I64(4 * half))) for half in (0, 1)] for at in sums_at]
            for g in range(self.groups):
                x_sum = [self.sum_of_group(b, g, *half) for half in halves]
                totals = self.fold_group(b, record, g, units, x_rows, x_scale, x_sum, totals)
            return totals

        for place, total in zip(places, loop_with_sums(b, blocks, totals, fold), strict=True):
            b.store(total, place, align=4)

    def record_and_units(self, b, at, i):
        """Find record i, where records share heads, and load what its whole numbers are worth. at: i blocks after the first."""
        before = b.and_(i, I64(self.layout.together - 1))  # records between it and its head
        head = b.sub(at, b.mul(before, I64(self.layout.block_bytes)))
        gap = b.sub(I64(self.layout.head_bytes), b.mul(before, I64(self.layout.head_bytes // self.layout.together)))
        return b.add(at, gap), self.units(b, head)

    def sum_of_group(self, b, g, one, other):
        return (one, other)[g] if self.groups == 2 else b.add(one, other)

    def fold_group(self, b, record, g, units, x_rows, x_scale, x_sum, totals):
        """Emit integer dot products over the columns of one group, then their share of y."""
        dots = [splat_int(b, b.mul(s, I32(-self.layout.offset))) if self.layout.offset else constant(0, I32) for s in x_sum]
        pairs = self.layout.span // 2
        for pair in range(g * pairs, (g + 1) * pairs):
            codes = self.numbers(b, record, pair)
            two = [splat_int(b, number(b, I32, row, I64(4 * pair))) for row in x_rows]
            dots = [dot_pairs(b, dot, codes, x) for dot, x in zip(dots, two, strict=True)]
        scale = self.scale(b, record, g, units)
        values = [b.fmul(b.sitofp(dot, F32X16), scale) for dot in dots]
        if self.layout.minima:
            minimum = self.minimum(b, record, g, units)
            sums = [splat_scalar(b, b.sitofp(s, F32)) for s in x_sum]
            values = [b.fsub(value, b.fmul(minimum, s)) for value, s in zip(values, sums, strict=True)]
        steps = [splat_scalar(b, s) for s in x_scale]
        return [call(b, "llvm.fma.v16f32", F32X16, *three) for three in zip(values, steps, totals, strict=True)]


class ByteEmitter(TileEmitter):
    """The same for x in 8 bits: four columns a step. What every code has too much is taken off with the minimum, in float32."""

    x_bits, sum_kind = 8, F32

    def sum_of_group(self, b, g, whole, first):
        return whole if self.groups == 1 else (first, b.fsub(whole, first))[g]

    def fold_group(self, b, record, g, units, x_rows, x_scale, x_sum, totals):
        dots, fours = [constant(0, I32)] * self.tokens, self.layout.span // 4
        for four in range(g * fours, (g + 1) * fours):
            codes = self.four_numbers(b, record, four)
            words = [splat_int(b, number(b, I32, row, I64(4 * four))) for row in x_rows]
            dots = [dot_fours(b, dot, codes, x) for dot, x in zip(dots, words, strict=True)]
        scale = self.scale(b, record, g, units)
        values = [b.fmul(b.sitofp(dot, F32X16), scale) for dot in dots]
        sides = [(value, x) for value, x in zip(values, x_scale, strict=True)]
        totals = [multiply_add(b, *side, total) for side, total in zip(sides, totals, strict=True)]
        if self.layout.minima or self.offset:
            excess = self.minimum(b, record, g, units) if self.layout.minima else b.fmul(scale, constant(float(self.offset)))
            totals = [multiply_add(b, b.fneg(excess), x, total) for x, total in zip(x_sum, totals, strict=True)]
        return totals


def multiply_add(b, vector, scalar, total):
    return call(b, "llvm.fma.v16f32", F32X16, vector, splat_scalar(b, scalar), total)


def number(b, kind, base, offset):
    """Load one number."""
    return b.load(b.inttoptr(b.add(base, offset), kind.as_pointer()), align=4)


def splat_int(b, number):
    """Broadcast an integer to all lanes."""
    nothing = ir.Constant(I32X16, ir.Undefined)
    return b.shuffle_vector(b.insert_element(nothing, number, I32(0)), nothing, constant(0, I32))


def dot_pairs(b, total, codes, x):
    """Add to total the dot product of the two 16-bit halves of each lane."""
    product = b.mul(*[b.sext(b.bitcast(a, HALVES_I16), HALVES_I32) for a in (codes, x)])
    even, odd = (b.shuffle_vector(product, product, constant(range(first, 2 * LANES, 2), I32)) for first in (0, 1))
    return b.add(total, b.add(even, odd))


def dot_fours(b, total, codes, x):
    """Add to total the dot product of the four bytes of each lane: codes without a sign, x with one."""
    if VNNI:
        return call(b, "llvm.x86.avx512.vpdpbusd.512", I32X16, total, codes, x)
    low, eight = constant(0x00FF00FF, I32), ir.Constant(HALVES_I16, [8] * 2 * LANES)
    halves = b.bitcast(x, HALVES_I16)
    even, odd = b.ashr(b.shl(halves, eight), eight), b.ashr(halves, eight)  # with their signs
    total = dot_pairs(b, total, b.and_(codes, low), b.bitcast(even, I32X16))
    return dot_pairs(b, total, b.and_(b.lshr(codes, constant(8, I32)), low), b.bitcast(odd, I32X16))
