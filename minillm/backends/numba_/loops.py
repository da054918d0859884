"""The inner loops of attention, one level above single instructions: what stays in registers is decided here.

A multiply-add takes its operands from registers, and a core starts two of them a cycle; memory cannot deliver three
operands for each. So a loop that keeps a block of sums in registers reads little and multiplies much:

    outer_products      C[6, 64] += A[6, n] · B[n, 64]
                        for each n: load four vectors of B, then for each of six rows spread one number of A over a
                        vector and multiply-add it to four sums: 24 multiply-adds for 10 loads.

    transpose16         sixteen rows of sixteen numbers, turned: what was a column lies in one register.

Each is written as a Python function that writes LLVM code: its `for` loops run while compiling, and unroll the block.
Goto and van de Geijn 2008, "Anatomy of high-performance matrix multiplication".
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from minillm.backends.numba_.processor import FEATURES
from minillm.backends.numba_.simd import (
    F32X16,
    LANES,
    address,
    call,
    constant,
    load_vector,
    splat_scalar,
    store_vector,
    transposed,
)

I64 = ir.IntType(64)
VECTORS = 4 if "+avx512f" in FEATURES else 1  # columns of a block of six rows: what 32 registers of 64 bytes hold, or 16 of 32
FRESH, ADD = 0, 1  # what C holds before: nothing, or a sum to go on with


def loop_with_sums(builder, count, sums, body):  # int64, [vector], (i, [vector]) -> [vector]; -> [vector]
    """`for i in range(count): sums = body(i, sums)`, with the sums in registers."""
    before = builder.block
    head, inside, after = (builder.append_basic_block(n) for n in ("head", "inside", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    i = builder.phi(I64)
    carried = [builder.phi(total.type) for total in sums]
    builder.cbranch(builder.icmp_signed("<", i, count), inside, after)
    builder.position_at_end(inside)
    new = body(i, carried)
    i.add_incoming(I64(0), before)
    i.add_incoming(builder.add(i, I64(1)), builder.block)
    for phi, old, value in zip(carried, sums, new, strict=True):
        phi.add_incoming(old, before)
        phi.add_incoming(value, builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    return carried


@intrinsic(prefer_literal=True)
def outer_products(typing, c, ci, c_row, a, ai, a_row, b, bi, b_row, n, rows, vectors, mode):
    """C[rows, 16·vectors] = (mode · C) + A[rows, n] · B[n, 16·vectors]; rows, vectors, mode are constants.

    ci, ai, bi: elements where the blocks begin in the arrays c, a, b. c_row, a_row, b_row: elements from row to row; b_row
    may also be an array of int64 that says where each row begins, after bi.
    """
    if not all(isinstance(x, types.IntegerLiteral) for x in (rows, vectors, mode)):
        return None
    n_rows, n_vectors = rows.literal_value, vectors.literal_value
    adds = mode.literal_value != FRESH

    def emit(context, builder, signature, args):
        c, ci, c_row, a, ai, a_row, b, bi, b_row, n = args[:10]
        c_type, a_type, b_type = signature.args[0], signature.args[3], signature.args[6]
        b_begins = row_begins(context, builder, signature.args[8], b_row)
        c0, a0, b0 = (address(context, builder, t, x, i) for t, x, i in ((c_type, c, ci), (a_type, a, ai), (b_type, b, bi)))
        c_at = [
            [builder.gep(c0, [builder.add(builder.mul(c_row, I64(r)), I64(LANES * v))]) for v in range(n_vectors)]
            for r in range(n_rows)
        ]
        a_at = [builder.gep(a0, [builder.mul(a_row, I64(r))]) for r in range(n_rows)]
        sums = [load_vector(builder, p, types.float32) if adds else constant(0.0) for row in c_at for p in row]

        def step(k, sums):
            b_k = builder.gep(b0, [b_begins(k)])
            b_vectors = [load_vector(builder, builder.gep(b_k, [I64(LANES * v)]), b_type.dtype) for v in range(n_vectors)]
            new = []
            for r in range(n_rows):
                spread = splat_scalar(builder, builder.load(builder.gep(a_at[r], [k])))
                row = sums[r * n_vectors : (r + 1) * n_vectors]
                new += [
                    call(builder, "llvm.fma.v16f32", F32X16, spread, b, total) for b, total in zip(b_vectors, row, strict=True)
                ]
            return new

        sums = loop_with_sums(builder, n, sums, step)
        for value, pointer in zip(sums, (p for row in c_at for p in row), strict=True):
            store_vector(builder, value, pointer)
        return context.get_dummy_value()

    i = types.intp
    return types.void(c, i, i, a, i, i, b, i, b_row, i, rows, vectors, mode), emit


def row_begins(context, builder, kind, rows):  # -> (int64 -> int64)
    """Find where row k begins: at a multiple of a stride, or where an array says."""
    if isinstance(kind, types.Array):
        return lambda k: builder.load(address(context, builder, kind, rows, k))
    return lambda k: builder.mul(rows, k)


@intrinsic
def transpose16(typing, to, ti, to_row, a, ai, a_row):
    """to[ti + c·to_row + j] = a[ai + j·a_row + c] for c and j in 0 … 15."""

    def emit(context, builder, signature, args):
        to, ti, to_row, a, ai, a_row = args
        a0 = address(context, builder, signature.args[3], a, ai)
        rows = [
            load_vector(builder, builder.gep(a0, [builder.mul(a_row, I64(j))]), signature.args[3].dtype) for j in range(LANES)
        ]
        to0 = address(context, builder, signature.args[0], to, ti)
        for c, row in enumerate(transposed(builder, rows)):
            store_vector(builder, row, builder.gep(to0, [builder.mul(to_row, I64(c))]))
        return context.get_dummy_value()

    i = types.intp
    return types.void(to, i, i, a, i, i), emit
