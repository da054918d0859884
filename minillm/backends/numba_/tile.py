"""The innermost step: one band of 16 rows times a few tokens, without leaving the registers.

For each record of the band, codes are unpacked once and used for all T tokens:

    codes     lane r:  code(r, 0) │ code(r, 1)      two 16-bit numbers in a lane of 32, one lane a row
    x         lane r:     x(0)    │    x(1)         the same pair of columns for all rows: one number, broadcast
    dot       lane r:  += code(r, 0) · x(0) + code(r, 1) · x(1)                        exact, in 32-bit integers

x is rounded to 16 bits (`quantize` in linear.py), finer than the float32 result can tell. After each group of columns
the integer sums become floats: y += scale · x_scale · (sum - offset · Σx) - minimum · x_scale · Σx.

Numba has no type for a SIMD register, so this module writes the step in LLVM's own language, through an `@intrinsic`: a
Python function that runs at compile time and emits instructions. It names no instruction of any processor. LLVM knows
that "multiply 16-bit pairs, add neighbours, accumulate" is one instruction on x86 (`vpmaddwd`, with VNNI `vpdpwssd`) and
a short sequence on Arm. The loops over T and over pairs run here, in Python: the code that comes out is straight.
"""

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

LANES = 16
I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F32, F16 = ir.FloatType(), ir.HalfType()
LANES_I32, LANES_F32, LANES_F16 = (ir.VectorType(t, LANES) for t in (I32, F32, F16))
HALVES_I16, HALVES_I32 = ir.VectorType(I16, 2 * LANES), ir.VectorType(I32, 2 * LANES)
PREFETCH_AHEAD = 8192  # bytes; memory answers after some hundred steps, so it is asked that much earlier


@intrinsic(prefer_literal=True)
def band_times_tokens(typing, tokens, bits, group, offset, wide, minima, records, blocks, x, scales, sums, n_columns, y, y_stride):
    """y[t, :16] = band · x[t] for t < tokens. Layout numbers are literals; arrays are addresses.

    x: (tokens, n_columns) int16; scales: (tokens, blocks) float32; sums: (tokens, columns / group) int32, the sums of x;
    y: float32, rows y_stride apart.
    """
    literals = [tokens, bits, group, offset, wide, minima]
    if not all(isinstance(a, types.Literal) for a in literals):
        return None
    signature = types.void(*literals, *[types.int64] * 8)
    shape = Step(*[int(a.literal_value) for a in literals])

    def codegen(context, builder, signature, args):
        shape.emit(builder, *args[6:])
        return context.get_dummy_value()

    return signature, codegen


class Step:
    """Emits the code for one combination of token count and layout."""

    def __init__(self, tokens, bits, group, offset, wide, minima):
        self.tokens, self.bits, self.group, self.offset, self.wide, self.minima = tokens, bits, group, offset, wide, minima
        self.code_bytes = 64 * bits
        self.scale_bytes = LANES * (4 if wide else 2)
        self.groups = 32 // group
        self.record_bytes = self.code_bytes + self.groups * (1 + minima) * self.scale_bytes

    def emit(self, b, records, blocks, x, scales, sums, n_columns, y, y_stride):
        """The loop over the records of a band, with one float accumulator per token in a register."""
        totals = [cgutils.alloca_once(b, LANES_F32) for _ in range(self.tokens)]
        for total in totals:
            b.store(ir.Constant(LANES_F32, [0.0] * LANES), total)
        with cgutils.for_range(b, blocks) as loop:
            record = b.add(records, b.mul(loop.index, I64(self.record_bytes)))
            self.prefetch(b, record)
            columns = b.mul(loop.index, I64(2 * 32))  # bytes of int16
            rows_x = [self.at(b, x, b.mul(n_columns, I64(2 * t)), columns) for t in range(self.tokens)]
            step_scale = [self.number(b, F32, scales, b.mul(b.add(b.mul(blocks, I64(t)), loop.index), I64(4))) for t in range(self.tokens)]
            for g in range(self.groups):
                index = [b.add(b.mul(b.add(b.mul(blocks, I64(t)), loop.index), I64(4 * self.groups)), I64(4 * g)) for t in range(self.tokens)]
                sum_x = [self.number(b, I32, sums, i) for i in index]
                self.fold_group(b, record, g, rows_x, step_scale, sum_x, totals)
        for t, total in enumerate(totals):
            place = b.inttoptr(b.add(y, b.mul(y_stride, I64(4 * t))), LANES_F32.as_pointer())
            b.store(b.load(total), place, align=4)

    def fold_group(self, b, record, g, rows_x, step_scale, sum_x, totals):
        """Integer dot products over the columns of one group, then their share of y."""
        dots = [splat(b, b.mul(s, I32(-self.offset))) if self.offset else ir.Constant(LANES_I32, [0] * LANES) for s in sum_x]
        pairs = self.group // 2
        for pair in range(g * pairs, (g + 1) * pairs):
            codes = self.codes(b, record, pair)
            for t in range(self.tokens):
                two = self.number(b, I32, rows_x[t], I64(4 * pair))
                dots[t] = dot_pairs(b, dots[t], codes, splat(b, two))
        scale = self.floats(b, record, self.code_bytes + g * self.scale_bytes)
        minimum = self.floats(b, record, self.code_bytes + (self.groups + g) * self.scale_bytes) if self.minima else None
        for t in range(self.tokens):
            value = b.fmul(b.sitofp(dots[t], LANES_F32), scale)
            if self.minima:
                value = b.fsub(value, b.fmul(minimum, splat(b, b.sitofp(sum_x[t], F32))))
            b.store(fma(b, value, splat(b, step_scale[t]), b.load(totals[t])), totals[t])

    def codes(self, b, record, pair):
        """Two unsigned codes a lane, as 16-bit halves: those of columns 2·pair and 2·pair + 1."""
        if self.bits == 8:
            word = self.word(b, record, 64 * (pair // 2))
            return field(b, word, 8 * (pair % 2), 0xFF)
        low = field(b, self.word(b, record, 64 * (pair // 4)), 4 * (pair % 4), 0xF)
        if self.bits == 4:
            return low
        upper, each = self.bits - 4, 16 // (self.bits - 4)
        word = self.word(b, record, 256 + 64 * (pair // each))
        high = field(b, word, upper * (pair % each), (1 << upper) - 1)
        return b.or_(low, b.shl(high, constant(4)))

    def word(self, b, record, offset):
        """64 bytes of codes."""
        return b.load(b.inttoptr(b.add(record, I64(offset)), LANES_I32.as_pointer()), align=32)

    def floats(self, b, record, offset):
        """Sixteen scales as float32."""
        stored = LANES_F32 if self.wide else LANES_F16
        loaded = b.load(b.inttoptr(b.add(record, I64(offset)), stored.as_pointer()), align=32)
        return loaded if self.wide else b.fpext(loaded, LANES_F32)

    def prefetch(self, b, record):
        """Ask for the cache lines of a later record."""
        pointer = I8.as_pointer()
        ask = cgutils.get_or_insert_function(b.module, ir.FunctionType(ir.VoidType(), [pointer, I32, I32, I32]), "llvm.prefetch.p0")
        for line in range(0, self.record_bytes, 64):
            b.call(ask, [b.inttoptr(b.add(record, I64(PREFETCH_AHEAD + line)), pointer), I32(0), I32(3), I32(1)])

    @staticmethod
    def at(b, base, *offsets):
        for offset in offsets:
            base = b.add(base, offset)
        return base

    @staticmethod
    def number(b, kind, base, offset):
        """One number from memory."""
        return b.load(b.inttoptr(b.add(base, offset), kind.as_pointer()), align=4)


def constant(value):
    return ir.Constant(LANES_I32, [value] * LANES)


def field(b, word, shift, mask):
    """The bits under the mask, of both halves of each lane, moved down."""
    moved = b.lshr(word, constant(shift)) if shift else word
    return b.and_(moved, constant(mask | mask << 16))


def splat(b, number):
    """A number in all lanes."""
    lanes = ir.VectorType(number.type, LANES)
    first = b.insert_element(ir.Constant(lanes, ir.Undefined), number, I32(0))
    return b.shuffle_vector(first, ir.Constant(lanes, ir.Undefined), ir.Constant(LANES_I32, [0] * LANES))


def dot_pairs(b, total, codes, x):
    """total + the dot product of the two 16-bit halves of each lane."""
    product = b.mul(*[b.sext(b.bitcast(a, HALVES_I16), HALVES_I32) for a in (codes, x)])
    even, odd = (
        b.shuffle_vector(product, product, ir.Constant(LANES_I32, list(range(first, 2 * LANES, 2)))) for first in (0, 1)
    )
    return b.add(total, b.add(even, odd))


def fma(b, x, y, z):
    """x · y + z, rounded once."""
    f = cgutils.get_or_insert_function(b.module, ir.FunctionType(LANES_F32, [LANES_F32] * 3), "llvm.fma.v16f32")
    return b.call(f, [x, y, z])
