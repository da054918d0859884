"""Layouts of packed weights: what a record holds, for every type of block.

packed.py has the picture of a record, 16 rows by 32 columns: codes, then scales with a lane for each row, then minima.
Codes are unsigned, and stand for

    scale · (code - offset)        scale · code - minimum        scale · table[code]        scale · level[code]

The K types share two numbers among 256 columns. Eight records then have a head, and their scales and minima are whole numbers:

    eight records   | d: 16 × float16 | dmin: 16 × float16 | record | record | … |        scale = d · whole number

So memory holds the bits of the file, or 1/8 of a bit more a weight: six bits of a scale take a byte here. What the kernel
multiplies, d · whole number, is exact in float32: 11 bits times 8.

Where 64 or 128 columns share a scale (affine_blocks.py), so many records as hold them have a head, and nothing but codes:

    two records     | scale: 16 × float16 | minimum: 16 × float16 | codes | codes |                             INT4_G64
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from minillm.formats.affine_blocks import AFFINE, affine_name
from minillm.formats.codebook_quants import E2M1, IQ4_NL
from minillm.quantization.nf4 import BLOCK as NF4_BLOCK
from minillm.quantization.nf4 import nf4_levels

BAND = 16  # rows side by side: float32 lanes of a 512-bit register; narrower machines use several registers
BLOCK = 32  # columns of a record
HALF, BYTE, NIBBLE, POWER, HEAD = range(5)  # how scales are kept


@dataclass(frozen=True, slots=True)
class Layout:
    """The layout of a type, known to the kernel at compile time.

    bits: 2, 3, 4, 5, 6 or 8 a code. group: columns that share a scale, 16, 32, or several records of 32. offset: taken from
    each code. minima: there is a minimum per group too. table: what a code stands for, whole numbers of 8 bits. levels: what
    tells it where the numbers are any: x is not rounded then (levels.py).

    scales: HALF, float16. BYTE, whole numbers of 8 bits with a sign, times d; NIBBLE, of 4 bits without one, a scale and a
    minimum in a byte. POWER, an exponent e of 8 bits (E8M0): 2^(e - 128). HEAD, float16 in the head that a group's records share.
    """

    bits: int
    group: int
    offset: int = 0
    scales: int = HALF
    minima: bool = False
    table: tuple[int, ...] | None = None
    levels: Callable | None = None

    @property
    def low_bits(self):
        """Bits of a code in the first plane. The rest, 1 or 2, is in a second one."""
        return {2: 2, 3: 2, 8: 8}.get(self.bits, 4)

    @property
    def span(self):
        """Columns of a record that share a scale."""
        return min(self.group, BLOCK)

    @property
    def groups(self):
        """Groups of a record."""
        return BLOCK // self.span

    @property
    def together(self):
        """Records that share a head."""
        return self.group // BLOCK if self.scales == HEAD else 8 if self.scales in (BYTE, NIBBLE) else 1

    @property
    def code_bytes(self):
        """Bytes of the codes of a record, upper bits included: 16 rows × 32 columns × bits / 8."""
        return BAND * BLOCK * self.bits // 8

    @property
    def scale_bytes(self):
        """Bytes of one register of scales."""
        return BAND * (2 if self.scales == HALF else 1)

    @property
    def record_bytes(self):
        registers = 0 if self.scales == HEAD else self.groups * (2 if self.minima and self.scales != NIBBLE else 1)
        return self.code_bytes + registers * self.scale_bytes

    @property
    def head_bytes(self):
        return 0 if self.together == 1 else BAND * 2 * (1 + self.minima)

    @property
    def block_bytes(self):
        """Bytes of a band for 32 columns, with their share of a head."""
        return self.record_bytes + self.head_bytes // self.together

    @property
    def alignment(self):
        """What every record's address is a multiple of, bytes: what a load may be told."""
        return 32 if self.record_bytes % 32 == 0 else 16

    @property
    def values(self):  # -> (2^bits,) float32
        """What each code stands for, before it is scaled."""
        codes = np.arange(1 << self.bits) - self.offset
        return self.levels() if self.levels else np.array(self.table or codes, np.float32)

    @property
    def dtype(self):
        """The pictures, as NumPy says them: `together` records and their head."""
        fields = [("codes", "u1", self.code_bytes)]
        if self.scales != HEAD:
            kept = {HALF: "<f2", BYTE: "i1", NIBBLE: "u1", POWER: "u1"}[self.scales], (self.groups, BAND)
            fields += [("scales", *kept)] + [("minima", *kept)] * (self.minima and self.scales != NIBBLE)
        head = [("d", "<f2", BAND)] if self.together > 1 else []
        head += [("dmin", "<f2", BAND)] if head and self.minima else []
        return np.dtype([*head, ("records", fields, (self.together,))])


LAYOUTS = {
    "Q4_0": Layout(4, 32, offset=8),
    "Q4_1": Layout(4, 32, minima=True),
    "Q5_0": Layout(5, 32, offset=16),
    "Q5_1": Layout(5, 32, minima=True),
    "Q8_0": Layout(8, 32, offset=128),
    "Q2_K": Layout(2, 16, scales=NIBBLE, minima=True),
    "Q3_K": Layout(3, 16, offset=4, scales=BYTE),
    "Q4_K": Layout(4, 32, scales=BYTE, minima=True),
    "Q5_K": Layout(5, 32, scales=BYTE, minima=True),
    "Q6_K": Layout(6, 16, offset=32, scales=BYTE),
    "IQ4_NL": Layout(4, 32, table=tuple(IQ4_NL.tolist())),
    "MXFP4": Layout(4, 32, scales=POWER, table=tuple(E2M1.tolist())),
    "NF4": Layout(4, NF4_BLOCK, scales=HEAD, levels=nf4_levels),
    **{affine_name(*grid): Layout(*grid, scales=HALF if grid[1] <= BLOCK else HEAD, minima=True) for grid in AFFINE},
}

LAYOUT_LIST = list(dict.fromkeys(LAYOUTS.values()))  # a kernel is compiled for a number in this list
