"""Sixteen numbers at a time: the vector instructions that the kernels are written in.

A core multiplies and adds sixteen float32 in one instruction, but a compiler that meets `for j in ...: s += q[j] * k[j]`
must prove that it may, and often does not. These few functions say it outright. Each becomes one operation on the type
<16 x float> of LLVM, the compiler under Numba, which is the same on every machine: an AVX-512 core takes it as one
register, AVX2 as two, NEON as four.

    load(a, i)      a[i] a[i+1] … a[i+15]    one register; from float16 (as uint16) it is widened on the way
    fma(x, y, z)    x·y + z                  in all sixteen lanes at once, rounded once
    splat(s)        s s s … s                a scalar in every lane

`a` is any NumPy array and `i` counts elements from its first one, strides and shape aside: address arithmetic by hand,
unchecked, as in C. What takes several of them, and must keep its numbers in registers meanwhile, is in loops.py.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

LANES = 16
F32, I32 = ir.FloatType(), ir.IntType(32)
F32X16, I32X16 = ir.VectorType(F32, LANES), ir.VectorType(I32, LANES)


class Vector(types.Type):
    """Numba's name for <16 x float>: a local variable of a kernel may be one."""

    def __init__(self):
        super().__init__("f32x16")


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    def __init__(self, manager, numba_type):
        super().__init__(manager, numba_type, F32X16)


f32x16 = Vector()


# --- pieces of LLVM code that the functions below share -----------------------------------------------------------------


def constant(values, kind=F32):
    """Make a constant vector: the same number in every lane, or one for each."""
    values = list(values) if hasattr(values, "__iter__") else [values] * LANES
    return ir.Constant(ir.VectorType(kind, LANES), values)


def call(builder, name, result, *args, flags=()):
    """Call the LLVM intrinsic of this name, llvm.fma.v16f32 and the like, or a function of the C library."""
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, [a.type for a in args]), name)
    return builder.call(function, args, fastmath=flags)


def address(context, builder, array_type, array, i):
    """Point to element i of an array."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [i])


def load_vector(builder, pointer, dtype):
    """Load sixteen elements as float32: as they are, or widened from float16 bit patterns."""
    if dtype == types.float32:
        return builder.load(builder.bitcast(pointer, F32X16.as_pointer()), align=4)
    halves = builder.load(builder.bitcast(pointer, ir.VectorType(ir.HalfType(), LANES).as_pointer()), align=2)
    return builder.fpext(halves, F32X16)


def prefetch(builder, pointer):
    """Prefetch the cache line of a later load, to the second cache. A hint, harmless wherever it points."""
    place = builder.bitcast(pointer, ir.IntType(8).as_pointer())
    call(builder, "llvm.prefetch.p0", ir.VoidType(), place, I32(0), I32(2), I32(1))


def store_vector(builder, vector, pointer):
    builder.store(vector, builder.bitcast(pointer, F32X16.as_pointer()), align=4)


def splat_scalar(builder, scalar):
    one = builder.insert_element(ir.Constant(F32X16, ir.Undefined), scalar, I32(0))
    return builder.shuffle_vector(one, ir.Constant(F32X16, ir.Undefined), constant(0, I32))


def interleave(builder, a, b, step):  # two vectors -> two vectors
    """Run one step of a transposition: a keeps its lanes without bit `step`, b those with it, and they swap the rest.

    step 1:   a0 a1 a2 a3    →    a0 b0 a2 b2
              b0 b1 b2 b3         a1 b1 a3 b3
    """
    low = constant([(j if not j & step else LANES + j - step) for j in range(LANES)], I32)
    high = constant([(j + step if not j & step else LANES + j) for j in range(LANES)], I32)
    return builder.shuffle_vector(a, b, low), builder.shuffle_vector(a, b, high)


def transposed(builder, rows):  # sixteen vectors -> sixteen: what was a column is one of them
    rows = list(rows)
    for step in (1, 2, 4, 8):  # the lanes' bit `step` changes places with the rows'
        for i in range(LANES):
            if not i & step:
                rows[i], rows[i + step] = interleave(builder, rows[i], rows[i + step], step)
    return rows


def largest(b, vector):  # <16 x float> -> float
    """Find the largest lane. (LLVM's own reduction asks of each pair which is not a number, and takes four times as long.)"""
    for step in (8, 4, 2, 1):
        other = b.shuffle_vector(vector, vector, constant([lane ^ step for lane in range(LANES)], I32))
        vector = b.select(b.fcmp_ordered(">", vector, other), vector, other)
    return b.extract_element(vector, I32(0))


# --- single operations --------------------------------------------------------------------------------------------------


@intrinsic
def load(typing, array, i):
    """Load sixteen numbers from element i on."""

    def emit(context, builder, signature, args):
        return load_vector(builder, address(context, builder, signature.args[0], *args), signature.args[0].dtype)

    return f32x16(array, types.intp), emit


@intrinsic
def store(typing, array, i, vector):
    """Store sixteen numbers to element i and on."""

    def emit(context, builder, signature, args):
        store_vector(builder, args[2], address(context, builder, signature.args[0], *args[:2]))
        return context.get_dummy_value()

    return types.void(array, types.intp, f32x16), emit


@intrinsic
def ask(typing, array, i):
    """Ask memory for the cache line of element i, and do not wait."""

    def emit(context, builder, signature, args):
        prefetch(builder, address(context, builder, signature.args[0], *args))
        return context.get_dummy_value()

    return types.void(array, types.intp), emit


@intrinsic
def number(typing, array, i):
    """Load element i alone, as float32: for the tails that do not fill a vector."""

    def emit(context, builder, signature, args):
        pointer = address(context, builder, signature.args[0], *args)
        if signature.args[0].dtype == types.float32:
            return builder.load(pointer)
        return builder.fpext(builder.load(builder.bitcast(pointer, ir.HalfType().as_pointer())), F32)

    return types.float32(array, types.intp), emit


@intrinsic
def splat(typing, scalar):
    """Broadcast a scalar to every lane."""
    return f32x16(types.float32), lambda context, builder, signature, args: splat_scalar(builder, args[0])


@intrinsic
def fma(typing, x, y, z):
    """Compute x·y + z (fused multiply-add)."""
    code = lambda context, builder, signature, args: call(builder, "llvm.fma.v16f32", F32X16, *args)  # noqa: E731
    return f32x16(f32x16, f32x16, f32x16), code


@intrinsic
def maximum(typing, x, y):
    """Take the larger of the two; y where x is not a number."""

    def emit(context, builder, signature, args):
        return builder.select(builder.fcmp_ordered(">", *args), *args)

    return f32x16(f32x16, f32x16), emit


@intrinsic
def add(typing, x, y):
    return f32x16(f32x16, f32x16), lambda context, builder, signature, args: builder.fadd(*args)


@intrinsic
def sub(typing, x, y):
    return f32x16(f32x16, f32x16), lambda context, builder, signature, args: builder.fsub(*args)


@intrinsic
def mul(typing, x, y):
    return f32x16(f32x16, f32x16), lambda context, builder, signature, args: builder.fmul(*args)


@intrinsic
def div(typing, x, y):
    return f32x16(f32x16, f32x16), lambda context, builder, signature, args: builder.fdiv(*args)


@intrinsic
def sum_of(typing, x):
    """Sum the sixteen lanes."""

    def emit(context, builder, signature, args):
        return call(builder, "llvm.vector.reduce.fadd.v16f32", F32, ir.Constant(F32, -0.0), args[0], flags=("reassoc",))

    return types.float32(f32x16), emit


@intrinsic
def max_of(typing, x):
    """Find the largest of the sixteen lanes. Where one is not a number, the result may be it, or not."""
    return types.float32(f32x16), lambda context, builder, signature, args: largest(builder, args[0])


EXP2 = [1.0, 0.6931470036506653, 0.24022242426872253, 0.05550733581185341, 0.009671512991189957, 0.001326472731307149]


@intrinsic
def exp2(typing, x):
    """Compute 2^x for x ≤ 0; exactly 0 below -127 (so for -inf), not a number for what is none.

    2^x = 2^n · 2^f with n the nearest whole number and f in [-½, ½]. 2^n is n in the exponent bits of a float; 2^f is a
    polynomial of degree 5, off by at most 1e-7 of itself (a least-maximum fit). Rounding is by a well-known trick: adding
    1.5·2²³ to a float leaves no bits for a fraction, and n in the lowest bits of the sum.
    """

    return f32x16(f32x16), lambda context, builder, signature, args: exp2_vector(builder, args[0])


def exp2_vector(builder, x):
    x = builder.select(builder.fcmp_ordered("<", x, constant(-127.0)), constant(-127.0), x)
    shifted = builder.fadd(x, constant(1.5 * 2**23))
    f = builder.fsub(x, builder.fsub(shifted, constant(1.5 * 2**23)))
    bits = builder.add(builder.bitcast(shifted, I32X16), constant(127, I32))
    power = builder.bitcast(builder.shl(bits, constant(23, I32)), F32X16)  # 2^n
    poly = constant(EXP2[-1])
    for coefficient in EXP2[-2::-1]:
        poly = call(builder, "llvm.fma.v16f32", F32X16, poly, f, constant(coefficient))
    return builder.fmul(poly, power)


@intrinsic
def swiglu16(typing, pair, i, j, out):
    """out[i …] = silu(pair[i …]) · pair[j …], sixteen numbers: silu(x) = x / (1 + e^-x), by e^-|x| so that nothing overflows."""

    def emit(context, builder, signature, args):
        row, i, j, out = args
        x, u = (load_vector(builder, address(context, builder, signature.args[0], row, at), types.float32) for at in (i, j))
        e = exp2_vector(builder, builder.fmul(call(builder, "llvm.fabs.v16f32", F32X16, x), constant(-1.4426950408889634)))
        numerator = builder.select(builder.fcmp_ordered("<", x, constant(0.0)), e, constant(1.0))
        sigmoid = builder.fdiv(numerator, builder.fadd(constant(1.0), e))
        store_vector(builder, builder.fmul(builder.fmul(x, sigmoid), u), address(context, builder, signature.args[3], out, i))
        return context.get_dummy_value()

    return types.void(pair, types.intp, types.intp, out), emit


@intrinsic
def store_as(typing, array, i, vector):
    """Store sixteen numbers to element i and on, rounded to float16 where the array holds such bit patterns."""

    def emit(context, builder, signature, args):
        array, i, vector = args
        place = address(context, builder, signature.args[0], array, i)
        if signature.args[0].dtype == types.float32:
            store_vector(builder, vector, place)
        else:
            halves = builder.fptrunc(vector, ir.VectorType(ir.HalfType(), LANES))
            builder.store(halves, builder.bitcast(place, halves.type.as_pointer()), align=2)
        return context.get_dummy_value()

    return types.void(array, types.intp, f32x16), emit
