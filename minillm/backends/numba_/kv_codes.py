"""Codes of a quantized KV cache in registers: sixteen bytes become sixteen or thirty-two floats, and floats become bytes.

    load_codes     16 bytes of one row: codes of 16 components                      values are read so
    turn_codes     16 bytes of 16 rows: a register for each component, rows are lanes       keys are read so

To turn floats takes four shuffles a component. Bytes are turned four at a time, as numbers of 32 bits, and taken apart where
they then lie, by shifts:

    16 rows × 4 numbers   →   4 registers of 16 rows      byte b of each:  x << (24 - 8b) >> 24      nibble n:  x >> 4n & 15

e4m3 is a float16 with a smaller exponent: its bits, moved to where those of a float16 are, are a number 2^-8 times as large
(also where it is subnormal). The caller's scale makes up for it: FP8_FACTOR. Rounding of each format:
quantization/kv_formats.py.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from minillm.backends.numba_.simd import (
    F32,
    F32X16,
    I32,
    I32X16,
    LANES,
    address,
    call,
    constant,
    f32x16,
    splat_scalar,
    store_vector,
)
from minillm.backends.numba_.tile import BYTES, I64, SHORTS
from minillm.quantization.fp8 import LARGEST, decode_e4m3

INT8, INT4, FP8, ROT4 = 1, 2, 3, 4  # KVFormat.number
LOW, HIGH = 5, 6  # of load_codes: nibbles of bytes
FP8_FACTOR = np.float32(256)
E4M3 = decode_e4m3(np.arange(256, dtype=np.uint8)) / FP8_FACTOR  # one by one
E4M3.flags.writeable = False  # of the type that constants of kernels have



def as_e4m3(builder, words):  # <16 x i16>, bytes with their sign carried on -> <16 x float> / FP8_FACTOR
    """Move sign, exponent and mantissa to their places in a float16: s seeee mmm 0…0, with the copy of s taken out."""
    moved = builder.and_(builder.shl(words, ir.Constant(SHORTS, [7] * LANES)), ir.Constant(SHORTS, [0xBFFF] * LANES))
    return builder.fpext(builder.bitcast(moved, ir.VectorType(ir.HalfType(), LANES)), F32X16)


@intrinsic(prefer_literal=True)
def load_codes(typing, array, i, kind):
    """Load the codes of 16 bytes from element i on. kind: INT8, FP8, LOW or HIGH."""
    if not isinstance(kind, types.IntegerLiteral):
        return None
    value = kind.literal_value

    def emit(context, builder, signature, args):
        place = address(context, builder, signature.args[0], *args[:2])
        codes = builder.load(builder.bitcast(place, BYTES.as_pointer()), align=1)
        if value == FP8:
            return as_e4m3(builder, builder.sext(codes, SHORTS))
        if value == INT8:
            return builder.sitofp(builder.sext(codes, I32X16), F32X16)
        whole = builder.zext(codes, I32X16)
        nibbles = builder.and_(whole, constant(15, I32)) if value == LOW else builder.lshr(whole, constant(4, I32))
        return builder.sitofp(nibbles, F32X16)

    return f32x16(array, types.intp, kind), emit


def joined(builder, vectors):  # [vector], a power of two of them -> one vector
    while len(vectors) > 1:
        both = [I32(lane) for lane in range(2 * vectors[0].type.count)]
        mask = ir.Constant(ir.VectorType(I32, len(both)), both)
        vectors = [builder.shuffle_vector(a, b, mask) for a, b in zip(vectors[::2], vectors[1::2], strict=True)]
    return vectors[0]


def turned_words(builder, rows):  # sixteen <4 x i32> -> four <16 x i32>: number w of all rows
    """Put rows m, 4 + m, 8 + m and 12 + m side by side, and turn squares of four by four in each quarter of a register."""
    a, b, c, d = (joined(builder, rows[m::4]) for m in range(4))
    low, high, first, last = (
        constant([4 * (lane // 4) + (p if p < 4 else LANES + p - 4) for lane in range(LANES) for p in [picked[lane % 4]]], I32)
        for picked in ((0, 4, 1, 5), (2, 6, 3, 7), (0, 1, 4, 5), (2, 3, 6, 7))  # of a quarter of x, and then of y
    )
    pair = builder.shuffle_vector
    ab, ab2, cd, cd2 = pair(a, b, low), pair(a, b, high), pair(c, d, low), pair(c, d, high)
    return [pair(ab, cd, first), pair(ab, cd, last), pair(ab2, cd2, first), pair(ab2, cd2, last)]


@intrinsic(prefer_literal=True)
def turn_codes(typing, to, ti, to_row, high, array, begins, bi, at, kind):
    """to[ti + c·to_row + j] = code c of the sixteen bytes from array[begins[bi + j] + at] on. kind: INT8, FP8, or INT4.

    INT4: of the low nibbles; those of the high ones go to to[ti + high + c·to_row + j].
    """
    if not isinstance(kind, types.IntegerLiteral):
        return None
    value = kind.literal_value

    def emit(context, builder, signature, args):
        to, ti, to_row, high, array, begins, bi, at, _ = args
        base, four = address(context, builder, signature.args[4], array, at), ir.VectorType(I32, 4)
        begin = address(context, builder, signature.args[5], begins, bi)
        places = [builder.gep(base, [builder.load(builder.gep(begin, [I64(j)]))]) for j in range(LANES)]
        words = turned_words(builder, [builder.load(builder.bitcast(p, four.as_pointer()), align=1) for p in places])
        to0 = address(context, builder, signature.args[0], to, ti)
        for w, word in enumerate(words):
            for byte in range(4):
                row = builder.gep(to0, [builder.mul(to_row, I64(4 * w + byte))])
                if value == INT4:
                    low = builder.and_(builder.lshr(word, constant(8 * byte, I32)), constant(15, I32))
                    other = builder.and_(builder.lshr(word, constant(8 * byte + 4, I32)), constant(15, I32))
                    store_vector(builder, builder.sitofp(low, F32X16), row)
                    store_vector(builder, builder.sitofp(other, F32X16), builder.gep(row, [high]))
                    continue
                code = builder.ashr(builder.shl(word, constant(24 - 8 * byte, I32)), constant(24, I32))
                found = as_e4m3(builder, builder.trunc(code, SHORTS)) if value == FP8 else builder.sitofp(code, F32X16)
                store_vector(builder, found, row)
        return context.get_dummy_value()

    i = types.intp
    return types.void(to, i, i, i, array, begins, i, i, kind), emit


def half_pointer(context, builder, array_type, array, i):
    return builder.bitcast(address(context, builder, array_type, array, i), ir.HalfType().as_pointer())


@intrinsic
def halves_of(typing, array, begins, bi, at):
    """Load the float16 numbers at bytes begins[bi + j] + at, for j in 0 … 15."""

    def emit(context, builder, signature, args):
        array, begins, bi, at = args
        base = address(context, builder, signature.args[0], array, at)
        begin = address(context, builder, signature.args[1], begins, bi)
        found = ir.Constant(SHORTS, ir.Undefined)
        for j in range(LANES):
            place = builder.gep(base, [builder.load(builder.gep(begin, [I64(j)]))])
            word = builder.load(builder.bitcast(place, ir.IntType(16).as_pointer()), align=1)
            found = builder.insert_element(found, word, I32(j))
        return builder.fpext(builder.bitcast(found, ir.VectorType(ir.HalfType(), LANES)), F32X16)

    return f32x16(array, begins, types.intp, types.intp), emit


@intrinsic
def half_at(typing, array, i):
    """Load the float16 number at byte i."""

    def emit(context, builder, signature, args):
        return builder.fpext(builder.load(half_pointer(context, builder, signature.args[0], *args), align=1), F32)

    return types.float32(array, types.intp), emit


@intrinsic
def put_half(typing, array, i, x):
    """Store a number that a float16 holds at byte i."""

    def emit(context, builder, signature, args):
        place = half_pointer(context, builder, signature.args[0], *args[:2])
        builder.store(builder.fptrunc(args[2], ir.HalfType()), place, align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.float32), emit


@intrinsic
def as_half(typing, x):
    """Round to what float16 holds; infinity beyond."""
    code = lambda context, builder, signature, args: builder.fpext(builder.fptrunc(args[0], ir.HalfType()), F32)  # noqa: E731
    return types.float32(types.float32), code


@intrinsic
def put_whole(typing, array, i, x, least, most):
    """Store sixteen numbers as bytes from element i on: rounded to whole ones, ties to even, between least and most."""

    def emit(context, builder, signature, args):
        array, i, x, least, most = args
        x = call(builder, "llvm.rint.v16f32", F32X16, x)
        for bound, beyond in ((least, "<"), (most, ">")):
            limit = splat_scalar(builder, bound)
            x = builder.select(builder.fcmp_ordered(beyond, x, limit), limit, x)
        put_bytes(builder, builder.fptosi(x, I32X16), address(context, builder, signature.args[0], array, i))
        return context.get_dummy_value()

    return types.void(array, types.intp, f32x16, types.float32, types.float32), emit


@intrinsic
def put_e4m3(typing, array, i, x):
    """Store sixteen numbers as e4m3 from element i on: as quantization.fp8.encode_e4m3, of finite numbers.

    Normal ones: half a step is added to the bits of the float, a little less where the last digit kept is even, and the others
    fall away; the exponent's bias becomes 7. Below 2^-6: a whole number of 2^-9, which is the code.
    """

    def emit(context, builder, signature, args):
        array, i, x = args
        bits = builder.bitcast(x, I32X16)
        sign = builder.and_(builder.lshr(bits, constant(24, I32)), constant(0x80, I32))
        size = call(builder, "llvm.fabs.v16f32", F32X16, x)
        size = builder.select(builder.fcmp_ordered(">", size, constant(LARGEST)), constant(LARGEST), size)
        kept = builder.bitcast(size, I32X16)
        even = builder.and_(builder.lshr(kept, constant(20, I32)), constant(1, I32))
        rounded = builder.lshr(builder.add(kept, builder.add(even, constant(0x7FFFF, I32))), constant(20, I32))
        normal = builder.sub(rounded, constant((127 - 7) << 3, I32))
        steps = builder.fptosi(call(builder, "llvm.rint.v16f32", F32X16, builder.fmul(size, constant(512.0))), I32X16)
        code = builder.select(builder.fcmp_ordered("<", size, constant(2.0**-6)), steps, normal)
        put_bytes(builder, builder.or_(code, sign), address(context, builder, signature.args[0], array, i))
        return context.get_dummy_value()

    return types.void(array, types.intp, f32x16), emit


def put_bytes(builder, whole, place):  # <16 x i32>
    builder.store(builder.trunc(whole, BYTES), builder.bitcast(place, BYTES.as_pointer()), align=1)


@intrinsic
def turned16(typing, x):
    """First four passes of quantization.hadamard.walsh_hadamard: sums and differences of lanes 1, 2, 4 and 8 apart."""

    def emit(context, builder, signature, args):
        (x,) = args
        for step in (1, 2, 4, 8):
            other = builder.shuffle_vector(x, x, constant([lane ^ step for lane in range(LANES)], I32))
            sign = constant([-1.0 if lane & step else 1.0 for lane in range(LANES)])  # of what lies here: a + b, and a - b
            x = builder.fadd(other, builder.fmul(x, sign))
        return x

    return f32x16(f32x16), emit
