"""A matrix unit in memory: what each instruction of amx.py does, as loops, for machines that have none.

Import it before any kernel is compiled, with a folder of its own for kernels (MINILLM_CACHE): then a process has a unit, and
matrix_unit.py runs on tiles of 16 × 64 bytes that lie in the stack of its kernel. It shows what the unit would compute, not how
long it takes.
"""

import sys

from llvmlite import ir
from numba.core import cgutils

from minillm.backends.numba_ import amx, matrix_unit

I8, I32, I64, F32 = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
ROW, TILE = 64, 1024  # bytes
tiles, shapes = [], {}  # of the kernel that is being compiled


def each(b, count):
    return cgutils.for_range(b, I64(count))


def tile_at(b, tile, kind=I8):
    return b.bitcast(b.gep(tiles[-1], [I64(TILE * tile)]), kind.as_pointer())


def configure(b, wanted):
    tiles.append(b.alloca(I8, I64(8 * TILE)))
    shapes.update(wanted)


def copy(b, to, to_row, source, source_row, rows, row_bytes):
    with each(b, rows) as r, each(b, row_bytes) as c:
        byte = b.load(b.gep(source, [b.add(b.mul(r.index, source_row), c.index)]))
        b.store(byte, b.gep(to, [b.add(b.mul(r.index, to_row), c.index)]))


def load(b, tile, place, stride):
    copy(b, tile_at(b, tile), I64(ROW), amx.bytes_at(b, place), stride, *shapes[tile])


def store(b, tile, place):
    copy(b, amx.bytes_at(b, place), I64(ROW), tile_at(b, tile), I64(ROW), *shapes[tile])


def zero(b, tile):
    with each(b, TILE) as c:
        b.store(I8(0), b.gep(tile_at(b, tile), [c.index]))


def add_product(b, sums, x, codes):
    """sums[t, r] += Σ over pairs p of x[t, 2p] · codes[p, r, 0] + x[t, 2p + 1] · codes[p, r, 1], bfloat16 times bfloat16."""
    pairs = shapes[codes][0]
    assert shapes[x][1] == 4 * pairs, "a row of x has as many numbers as the tile of codes has rows, twice"
    with each(b, shapes[sums][0]) as t, each(b, 16) as r, each(b, pairs) as p:
        total = b.gep(tile_at(b, sums, F32), [b.add(b.mul(t.index, I64(16)), r.index)])
        two_x = b.load(b.gep(tile_at(b, x, I32), [b.add(b.mul(t.index, I64(16)), p.index)]))
        two_codes = b.load(b.gep(tile_at(b, codes, I32), [b.add(b.mul(p.index, I64(16)), r.index)]))
        for half in (lambda both: b.shl(both, I32(16)), lambda both: b.and_(both, I32(0xFFFF0000))):
            one, other = (b.bitcast(half(both), F32) for both in (two_x, two_codes))
            b.store(b.fadd(b.load(total), b.fmul(one, other)), total)


def release(b):
    tiles.pop()


for function in (configure, load, store, zero, add_product, release):
    setattr(matrix_unit, function.__name__, function)
for module in list(sys.modules.values()):
    if module.__name__.startswith("minillm.backends.numba_.") and hasattr(module, "MATRIX_UNIT"):
        module.MATRIX_UNIT = True
