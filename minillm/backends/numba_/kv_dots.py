"""Products with codes that stay in registers: scores of sixteen rows of keys, and sums of rows of values.

A number q of a query is a whole number of 24 bits times a scale that its row shares, as exact as float32 makes a sum of them.
Its three bytes, digits from -128 to 127, meet the codes of the keys four at a time (vpdpbusd), in sums of 32 bits that are exact:

    q ≈ step · (65536 a + 256 b + c)                  q · code = step · (65536 Σ a·code + 256 Σ b·code + Σ c·code)

The codes go from memory to the sums without becoming floats. The instruction wants them without a sign: 128 is added to those of
int8, and Σ 128 · digit taken off before the sum begins.

    digits    (d / 4, rows, 3) words of four bytes        components 4i … 4i + 3 of a row, one digit
    starts    (rows, 3) int32                             what sums begin with

With values it is the weight of a token that spreads over a register, and the codes become floats on their way: fused, unlike
kv_rows.decode_row, so that they are never written.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from minillm.backends.numba_.kv_codes import FP8, INT4, INT8, as_e4m3, turned_words
from minillm.backends.numba_.loops import loop_with_sums, row_begins
from minillm.backends.numba_.processor import VNNI
from minillm.backends.numba_.simd import (
    F32X16,
    I32,
    I32X16,
    LANES,
    address,
    call,
    constant,
    f32x16,
    load_vector,
    splat_scalar,
    store_vector,
)
from minillm.backends.numba_.tile import BYTES, I64, SHORTS, dot_fours, splat_int

DOTS = VNNI  # else floats are faster
DIGITS, LARGEST_WHOLE = 3, np.float32(127 * 65536)
FOUR = ir.VectorType(I32, 4)


@intrinsic
def put_digits(typing, words, i, apart, x, factor):
    """Round sixteen numbers x · factor, at most LARGEST_WHOLE, to whole ones. words[i + n + w · apart] = digit n, the highest
    first, of numbers 4w … 4w + 3."""

    def emit(context, builder, signature, args):
        words, i, apart, x, factor = args
        scaled = builder.fmul(x, splat_scalar(builder, factor))
        whole = builder.fptosi(call(builder, "llvm.rint.v16f32", F32X16, scaled), I32X16)
        to, digits = address(context, builder, signature.args[0], words, i), []
        for _ in range(DIGITS):
            digit = builder.ashr(builder.shl(whole, constant(24, I32)), constant(24, I32))
            whole = builder.ashr(builder.sub(whole, digit), constant(8, I32))
            digits.insert(0, digit)
        for n, digit in enumerate(digits):
            four = builder.bitcast(builder.trunc(digit, BYTES), FOUR)
            for w in range(4):
                place = builder.gep(to, [builder.add(builder.mul(apart, I64(w)), I64(n))])
                builder.store(builder.extract_element(four, I32(w)), place)
        return context.get_dummy_value()

    return types.void(words, types.intp, types.intp, f32x16, types.float32), emit


@intrinsic
def put_starts(typing, starts, i, words, wi, apart, count):
    """starts[i + j] = -128 · Σ of the bytes of words[wi + j + k · apart] over k < count, for j in 0 … 15."""

    def emit(context, builder, signature, args):
        starts, i, words, wi, apart, count = args
        first = address(context, builder, signature.args[2], words, wi)

        def step(k, totals):
            place = builder.bitcast(builder.gep(first, [builder.mul(apart, k)]), I32X16.as_pointer())
            return [dot_fours(builder, totals[0], constant(-0x7F7F7F80, I32), builder.load(place, align=4))]  # 128 four times

        (total,) = loop_with_sums(builder, count, [constant(0, I32)], step)
        to = builder.bitcast(address(context, builder, signature.args[0], starts, i), I32X16.as_pointer())
        builder.store(builder.sub(constant(0, I32), total), to, align=4)
        return context.get_dummy_value()

    n = types.intp
    return types.void(starts, n, words, n, n, n), emit


@intrinsic(prefer_literal=True)
def code_scores(typing, s, si, s_row, words, wi, apart, high, starts, ui, array, begins, bi, at, chunks, kind, rows):
    """s[si + r·s_row + j] = Σ_c q_r[c] · code c of the row at array[begins[bi + j] + at], in steps of q_r, for 16 j and r < rows.

    words, from wi on, and starts, from ui on: as above, of these rows; apart: from word to word of a digit; high: to those
    of high nibbles. chunks: of 16 bytes. kind: INT8 or INT4, and rows, are constants.
    """
    if not all(isinstance(x, types.IntegerLiteral) for x in (kind, rows)):
        return None
    four_bits, n_rows = kind.literal_value == INT4, rows.literal_value

    def emit(context, builder, signature, args):
        s, si, s_row, words, wi, apart, high, starts, ui, array, begins, bi, at, chunks = args[:14]
        base = address(context, builder, signature.args[9], array, at)
        begin = address(context, builder, signature.args[10], begins, bi)
        places = [builder.gep(base, [builder.load(builder.gep(begin, [I64(j)]))]) for j in range(LANES)]
        first = address(context, builder, signature.args[7], starts, ui)
        q = address(context, builder, signature.args[3], words, wi)
        sums = [splat_int(builder, builder.load(builder.gep(first, [I64(i)]))) for i in range(DIGITS * n_rows)]

        def dots(sums, codes, at):  # at: word of q
            return [
                dot_fours(builder, total, codes, splat_int(builder, builder.load(builder.gep(at, [I64(i)]))))
                for i, total in enumerate(sums)
            ]

        def step(i, sums):
            moved = [builder.gep(p, [builder.mul(i, I64(16))]) for p in places]
            found = [builder.load(builder.bitcast(p, FOUR.as_pointer()), align=1) for p in moved]
            for w, word in enumerate(turned_words(builder, found)):
                place = builder.gep(q, [builder.mul(apart, builder.add(builder.mul(i, I64(4)), I64(w)))])
                if four_bits:
                    nibbles = constant(0x0F0F0F0F, I32)
                    sums = dots(sums, builder.and_(word, nibbles), place)
                    sums = dots(sums, builder.and_(builder.lshr(word, constant(4, I32)), nibbles), builder.gep(place, [high]))
                else:
                    sums = dots(sums, builder.xor(word, constant(0x80808080, I32)), place)
            return sums

        sums = loop_with_sums(builder, chunks, sums, step)
        to = address(context, builder, signature.args[0], s, si)
        for r in range(n_rows):
            a, b, c = (builder.sitofp(total, F32X16) for total in sums[DIGITS * r : DIGITS * r + DIGITS])
            low = call(builder, "llvm.fma.v16f32", F32X16, b, constant(256.0), c)
            value = call(builder, "llvm.fma.v16f32", F32X16, a, constant(65536.0), low)
            store_vector(builder, value, builder.gep(to, [builder.mul(s_row, I64(r))]))
        return context.get_dummy_value()

    i = types.intp
    return types.void(s, i, i, words, i, i, i, starts, i, array, begins, i, i, i, kind, rows), emit


@intrinsic(prefer_literal=True)
def outer_codes(typing, c, ci, c_row, a, ai, a_row, array, at, begins, n, high, kind, rows, vectors):
    """C[r, …] += Σ_k a[ai + r·a_row + k] · codes of the row at array[begins[k] + at], for r < rows: 16 · vectors bytes of it.

    Codes of low nibbles go to columns 0 … of C from ci on, those of high ones to columns high …. kind, rows, vectors: constants.
    """
    if not all(isinstance(x, types.IntegerLiteral) for x in (kind, rows, vectors)):
        return None
    kind_of, n_rows, loads = kind.literal_value, rows.literal_value, vectors.literal_value

    def emit(context, builder, signature, args):
        c, ci, c_row, a, ai, a_row, array, at, begins, n, high = args[:11]
        begin_of = row_begins(context, builder, signature.args[8], begins)
        c0, a0, b0 = (address(context, builder, signature.args[k], args[k], args[k + 1]) for k in (0, 3, 6))
        offsets = [I64(LANES * v) for v in range(loads)]
        if kind_of == INT4:
            offsets += [builder.add(high, offset) for offset in offsets]
        row_of = [builder.gep(c0, [builder.mul(c_row, I64(r))]) for r in range(n_rows)]
        c_at = [builder.gep(row, [offset]) for row in row_of for offset in offsets]
        a_at = [builder.gep(a0, [builder.mul(a_row, I64(r))]) for r in range(n_rows)]

        def step(k, sums):
            row = builder.gep(b0, [begin_of(k)])
            codes = unpacked(builder, [builder.gep(row, [offset]) for offset in offsets[:loads]], kind_of)
            new = []
            for r in range(n_rows):
                spread = splat_scalar(builder, builder.load(builder.gep(a_at[r], [k])))
                for found, total in zip(codes, sums[r * len(codes) : (r + 1) * len(codes)], strict=True):
                    new.append(call(builder, "llvm.fma.v16f32", F32X16, spread, found, total))
            return new

        sums = loop_with_sums(builder, n, [load_vector(builder, p, types.float32) for p in c_at], step)
        for value, pointer in zip(sums, c_at, strict=True):
            store_vector(builder, value, pointer)
        return context.get_dummy_value()

    i = types.intp
    return types.void(c, i, i, a, i, i, array, i, begins, i, i, kind, rows, vectors), emit


def unpacked(builder, places, kind):  # pointers -> [<16 x float>]: of all low nibbles first
    codes = [builder.load(builder.bitcast(place, BYTES.as_pointer()), align=1) for place in places]
    if kind == FP8:
        return [as_e4m3(builder, builder.sext(code, SHORTS)) for code in codes]
    if kind == INT8:
        return [builder.sitofp(builder.sext(code, I32X16), F32X16) for code in codes]
    whole = [builder.zext(code, I32X16) for code in codes]
    nibbles = [builder.and_(x, constant(15, I32)) for x in whole] + [builder.lshr(x, constant(4, I32)) for x in whole]
    return [builder.sitofp(x, F32X16) for x in nibbles]
