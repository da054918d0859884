"""Instructions of a matrix unit (Intel AMX), and pieces of LLVM code around them, for matrix_unit.py.

The unit has eight registers, tiles of up to sixteen rows of 64 bytes, known by their numbers. Before use their shapes are set,
afterwards they are released, so that the system need not keep them when it changes threads.

    tdpbf16ps    sums += x · codes        x: (rows, 2k) bfloat16, codes: (k, 16, 2), sums: (rows, 16) float32

Intel 2024, "Optimization Reference Manual", chapter 20. What was measured here: a tile of which every row lies in two cache lines
takes six times as long to load.
"""

from contextlib import contextmanager

from llvmlite import ir
from numba.core import cgutils

from minillm.backends.numba_.records import I8, I64
from minillm.backends.numba_.simd import I32X16, LANES, call, transposed


def configure(b, shapes):  # {tile: (rows, bytes of a row)}
    """Set the shapes of the tiles."""
    wanted = bytearray(64)
    wanted[0] = 1  # the palette: eight tiles of 1 KB
    for tile, (rows, row_bytes) in shapes.items():
        wanted[16 + 2 * tile], wanted[48 + tile] = row_bytes, rows
    place = cgutils.global_constant(b, "tiles", ir.Constant(ir.ArrayType(I8, 64), wanted))
    place.align = 64
    emit(b, "ldtilecfg", bytes_at(b, place))


def release(b):
    emit(b, "tilerelease")


def load(b, tile, place, stride):  # stride: bytes from row to row
    emit(b, "tileloadd64", I8(tile), bytes_at(b, place), stride)


def store(b, tile, place):
    emit(b, "tilestored64", I8(tile), bytes_at(b, place), I64(64))


def zero(b, tile):
    emit(b, "tilezero", I8(tile))


def add_product(b, sums, x, codes):
    emit(b, "tdpbf16ps", I8(sums), I8(x), I8(codes))


def emit(b, name, *args):
    call(b, f"llvm.x86.{name}", ir.VoidType(), *args)


def bytes_at(b, place):
    return b.bitcast(place, I8.as_pointer())


def room(b, vectors):  # -> pointer to registers of sixteen 32-bit numbers, in the first cache
    place = b.alloca(I32X16, I64(vectors))
    place.align = 64
    return place


@contextmanager
def each(b, first, last, step):
    """Emit `for i in range(first, last, step)` around what is emitted within."""
    with cgutils.for_range_slice(b, first, last, I64(step)) as (i, _):
        yield i


def least(b, count, limit):
    return b.select(b.icmp_signed("<", count, I64(limit)), count, I64(limit))


def columns_of(b, first, apart):  # address of sixteen rows of sixteen 32-bit numbers, bytes from row to row -> its columns
    rows = (b.inttoptr(b.add(first, b.mul(apart, I64(i))), I32X16.as_pointer()) for i in range(LANES))
    return transposed(b, [b.load(row, align=4) for row in rows])
