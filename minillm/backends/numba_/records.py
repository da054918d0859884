"""What a record holds, taken into registers: the pieces of LLVM code that tile.py and matrix_unit.py are made of.

    codes      load 64 bytes, move down, mask: two codes a lane; those of 3, 5 and 6 bits from two planes
    numbers    the same, or what the layout's table says of each: sixteen or thirty-two looked up at once
    scale      16 × float16, of a record or a head, become float32; whole numbers too, and are multiplied by d, which a head holds

packed.py and layouts.py have the pictures. These too name no instruction of any processor.
"""

from llvmlite import ir

from minillm.backends.numba_.layouts import BYTE, HALF, HEAD, NIBBLE, POWER
from minillm.backends.numba_.processor import FEATURES
from minillm.backends.numba_.simd import F32X16, I32, I32X16, LANES, call, constant

I8, I16, I64 = ir.IntType(8), ir.IntType(16), ir.IntType(64)
BYTES_I8 = ir.VectorType(I8, 4 * LANES)
HALVES_I16 = ir.VectorType(I16, 2 * LANES)


class Records:
    """Emits loads from the records of one layout."""

    def __init__(self, layout):
        self.layout, self.groups = layout, layout.groups
        self.offset = -min(layout.table) if layout.table else layout.offset  # of what four_numbers gives

    def numbers(self, b, record, pair):
        """Emit what is multiplied: the codes, or what the table says of them. Two a lane.

        Where a processor permutes 32 numbers of 16 bits (`vpermw`), the codes of a pair are looked up; elsewhere bytes are
        (`pshufb`, `tbl` on Arm), 64 at once: the lower byte of each half has the pair, the upper one the pair after the next.
        """
        if self.layout.table is None:
            return self.codes(b, record, pair)
        if "+avx512bw" in FEATURES:
            return b.bitcast(by_lanes(b, self.layout.table, b.bitcast(self.codes(b, record, pair), HALVES_I16)), I32X16)
        word = self.word(b, record, 64 * (pair // 4))
        found = look_up_bytes(b, self.layout.table, field(b, word, 4 * (pair % 2), 0x0F0F))
        eight = ir.Constant(HALVES_I16, [8] * 2 * LANES)
        upper = found if pair % 4 > 1 else b.shl(found, eight)
        return b.bitcast(b.ashr(upper, eight), I32X16)  # with its sign

    def four_numbers(self, b, record, four):
        """Emit what x in 8 bits is multiplied with: codes, or table + offset, four unsigned bytes a lane, in MASK_ORDER."""
        low, bits, first = self.layout.low_bits, self.layout.bits, 4 * (four // 2) + four % 2
        codes = self.two_pairs(b, record, 0, low, first)
        if bits > low:
            codes = b.or_(codes, b.shl(self.two_pairs(b, record, 64 * low, bits - low, first), constant(low, I32)))
        if self.layout.table is None:
            return codes
        table = [value + self.offset for value in self.layout.table]
        if "+avx512bw" in FEATURES:
            values = ir.Constant(BYTES_I8, table * 4)
            return b.bitcast(call(b, "llvm.x86.avx512.pshuf.b.512", BYTES_I8, values, b.bitcast(codes, BYTES_I8)), I32X16)
        return b.bitcast(look_up_bytes(b, table, codes), I32X16)

    def two_pairs(self, b, record, offset, bits, pair):
        """Emit the codes of a pair, and above them those of the pair after the next. In four bits a single mask does both."""
        if bits == 4:
            return field(b, self.word(b, record, offset + 64 * (pair // 4)), 4 * (pair % 4), 0x0F0F)
        low, high = (self.plane(b, record, offset, bits, p) for p in (pair, pair + 2))
        return b.or_(low, b.shl(high, constant(8, I32)))

    def codes(self, b, record, pair):
        """Emit two unsigned codes a lane, as 16-bit halves: those of columns 2·pair and 2·pair + 1."""
        low, bits = self.layout.low_bits, self.layout.bits
        codes = self.plane(b, record, 0, low, pair)
        if bits == low:
            return codes
        high = self.plane(b, record, 64 * low, bits - low, pair)
        return b.or_(codes, b.shl(high, constant(low, I32)))

    def plane(self, b, record, offset, bits, pair):
        """Emit the codes of a pair from a plane of so many bits a code: load the 64 bytes they are in, and extract them."""
        each = 16 // bits
        return field(b, self.word(b, record, offset + 64 * (pair // each)), bits * (pair % each), (1 << bits) - 1)

    def word(self, b, record, offset):
        """Load 64 bytes of codes."""
        return b.load(b.inttoptr(b.add(record, I64(offset)), I32X16.as_pointer()), align=self.layout.alignment)

    def units(self, b, head):
        """Load what a head has: d, and dmin where there are minima. They are the scale, or what whole numbers are worth."""
        return [self.half_floats(b, head, 32 * i) for i in range(1 + self.layout.minima)]

    def scale(self, b, record, g, units):
        """Make the sixteen scales of a group, float32."""
        if self.layout.scales == HEAD:
            return units[0]
        at = self.layout.code_bytes + g * self.layout.scale_bytes
        if self.layout.scales == HALF:
            return self.half_floats(b, record, at)
        stored = self.whole_numbers(b, record, at)
        if self.layout.scales == POWER:
            return power(b, stored)
        return b.fmul(units[0], b.sitofp(stored if self.layout.scales == BYTE else b.and_(stored, constant(15, I32)), F32X16))

    def minimum(self, b, record, g, units):
        """Make the sixteen minima of a group, float32."""
        if self.layout.scales == HEAD:
            return units[1]
        at = self.layout.code_bytes + g * self.layout.scale_bytes
        if self.layout.scales == NIBBLE:
            return b.fmul(units[1], b.sitofp(b.lshr(self.whole_numbers(b, record, at), constant(4, I32)), F32X16))
        at += self.groups * self.layout.scale_bytes
        if self.layout.scales == HALF:
            return self.half_floats(b, record, at)
        return b.fmul(units[1], b.sitofp(self.whole_numbers(b, record, at), F32X16))

    def half_floats(self, b, record, offset):
        """Load sixteen float16 numbers as float32."""
        kind = ir.VectorType(ir.HalfType(), LANES)
        return b.fpext(b.load(b.inttoptr(b.add(record, I64(offset)), kind.as_pointer()), align=self.layout.alignment), F32X16)

    def whole_numbers(self, b, record, offset):
        """Load sixteen numbers of 8 bits, with a sign where the layout has signed ones."""
        kind = ir.VectorType(I8, LANES)
        stored = b.load(b.inttoptr(b.add(record, I64(offset)), kind.as_pointer()), align=16)
        return (b.sext if self.layout.scales == BYTE else b.zext)(stored, I32X16)

    def prefetch(self, b, record):
        """Prefetch the cache lines of a record."""
        for line in range(0, self.layout.block_bytes, 64):
            place = b.inttoptr(b.add(record, I64(line)), I8.as_pointer())
            call(b, "llvm.prefetch.p0", ir.VoidType(), place, I32(0), I32(3), I32(1))


def field(b, word, shift, mask):
    """Extract the bits under the mask, of both halves of each lane, moved down."""
    moved = b.lshr(word, constant(shift, I32)) if shift else word
    return b.and_(moved, constant(mask | mask << 16, I32))


def power(b, e):
    """2^(e - 128) for e in 0 … 255: e - 1 is the exponent of a float32; the two least are subnormal, a bit of the fraction."""
    normal = b.shl(b.sub(e, constant(1, I32)), constant(23, I32))
    least = b.shl(constant(1 << 21, I32), b.and_(e, constant(1, I32)))
    return b.bitcast(b.select(b.icmp_unsigned(">", e, constant(1, I32)), normal, least), F32X16)


def by_lanes(b, table, index):  # -> a vector like index, with table[index[i]] in lane i
    """Emit "lane i is table[index i]" for every lane, which LLVM knows as a permutation of a register that holds the table."""
    lanes, bits = index.type.count, index.type.element.width
    values = ir.Constant(index.type, [table[i % 16] % (1 << bits) for i in range(lanes)])
    found = ir.Constant(index.type, ir.Undefined)
    for i in range(lanes):
        found = b.insert_element(found, b.extract_element(values, b.extract_element(index, I32(i))), I32(i))
    return found


def look_up_bytes(b, table, codes):  # a code in each of 64 bytes -> HALVES_I16, each of its bytes looked up
    """Look up sixteen bytes at a time: every processor that permutes bytes does so many."""
    codes = b.bitcast(codes, ir.VectorType(I8, 64))
    parts = [by_lanes(b, table, some_lanes(b, codes, codes, range(at, at + 16))) for at in range(0, 64, 16)]
    halves = [some_lanes(b, *two, range(32)) for two in (parts[:2], parts[2:])]
    return b.bitcast(some_lanes(b, *halves, range(64)), HALVES_I16)


def some_lanes(b, one, other, lanes):  # two vectors -> of their lanes, counted through both, those that are named
    return b.shuffle_vector(one, other, ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes)))
