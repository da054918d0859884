"""Float weights for the CPU's registers: bands of 64 rows, turned, and a matrix product of small blocks.

A column of a band is 64 consecutive numbers, four registers. For six tokens at a time the product keeps 6 × 4 registers of
sums and reads each weight once for all six: `outer_products`, the same inner loop that attention uses.

    band     columns × 64        w[c, r] = W[64 · band + r, c]       float32, or float16 as it is in the file

To a kernel it is a handle like any other (bands.py), with an address of code. It counts bands of 16 rows, as packed matrices
have them: the cores share those out more evenly, and a matrix may end after any of them. A stretch of rows that does not
fill four registers goes through by two and by one; every row's sum is the same chain of multiply-adds in each.

Weights in bfloat16 become float32: no instruction widens them sixteen at a time on every machine.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numba import njit

from minillm.backends.numba_.bands import SIGNATURE
from minillm.backends.numba_.compiled import code
from minillm.backends.numba_.loops import ADD, outer_products
from minillm.backends.numba_.packed import BAND, aligned
from minillm.backends.numba_.pages import memory
from minillm.backends.numba_.simd import splat, store
from minillm.backends.numpy_ import load_matrix as as_float32

WIDE = 64  # rows of a wide band: four registers


@dataclass(frozen=True)
class FloatMatrix:
    """A (rows, columns) matrix as (wide bands, columns, 64), float32 or float16 bits. The last band is filled with zeros."""

    bands: np.ndarray
    shape: tuple[int, int]

    @property
    def nbytes(self):
        return self.bands.nbytes

    @property
    def width(self):
        """Bytes of a weight."""
        return self.bands.itemsize

    @property
    def padded_rows(self):
        """Rows that a product writes: whole registers of them."""
        return -(-self.shape[0] // BAND) * BAND

    @cached_property
    def place(self):
        """Return address, columns of a band, bytes of a column, bands of 16 rows, as PackedMatrix does."""
        return self.bands.ctypes.data, self.shape[1], WIDE * self.width, self.padded_rows // BAND


def pack_floats(tensor):  # a stored tensor (rows, columns) of a plain type -> FloatMatrix
    rows, columns = tensor.shape
    halves = tensor.type.name == "F16"
    weights = tensor.raw.view(np.uint16).reshape(rows, columns) if halves else as_float32(tensor)
    bands = aligned((-(-rows // WIDE), columns, WIDE), weights.dtype)
    bands[-1] = 0
    for i, band in enumerate(bands):
        part = weights[i * WIDE : (i + 1) * WIDE]
        band[:, : len(part)] = part.T
    return FloatMatrix(bands, (rows, columns))


FLOATS, HALVES = np.empty(0, np.float32), np.empty(0, np.uint16)  # Numba knows no float16


@lru_cache
def bands_times_tokens(width):  # 2 or 4 bytes of a weight -> what has `.address`
    """Compile the code for float16 or float32 weights: bands of 16 rows first … last - 1 times all tokens. See bands.py."""
    kind = HALVES if width == 2 else FLOATS

    @code(SIGNATURE)
    def run(first, last, add, records, columns, column_bytes, rows, codes, scales, sums, parts, n, y, stride):
        w, x, out = memory(records, kind), memory(rows, FLOATS), memory(y, FLOATS)
        band = first
        while band < last:
            together = min(last, band // 4 * 4 + 4) - band  # what of this stretch lies in one band of 64
            at, place = band // 4 * 64 * columns + 16 * (band % 4), 16 * band
            if together == 4:
                columns_times_tokens(out, place, stride, x, w, at, columns, n, add, 4)
                band += 4
            elif together >= 2:
                columns_times_tokens(out, place, stride, x, w, at, columns, n, add, 2)
                band += 2
            else:
                columns_times_tokens(out, place, stride, x, w, at, columns, n, add, 1)
                band += 1

    return run


@njit(inline="always")
def columns_times_tokens(y, place, stride, x, w, at, columns, n, add, registers):
    """Multiply registers · 16 rows, which begin at w[at] and whose results begin at y[place], by all tokens."""
    t = 0
    while t < n:
        tokens = 6 if t + 6 <= n else 2 if t + 2 <= n else 1
        to = place + t * stride
        if not add:
            for i in range(tokens):
                for register in range(registers):
                    store(y, to + i * stride + 16 * register, splat(np.float32(0)))
        if tokens == 6:
            outer_products(y, to, stride, x, t * columns, columns, w, at, 64, columns, 6, registers, ADD)
        elif tokens == 2:
            outer_products(y, to, stride, x, t * columns, columns, w, at, 64, columns, 2, registers, ADD)
        else:
            outer_products(y, to, stride, x, t * columns, columns, w, at, 64, columns, 1, registers, ADD)
        t += tokens


def rows_of(weight, rows):  # FloatMatrix, (n,) -> (n, columns) float32
    found = weight.bands[rows // WIDE, :, rows % WIDE]
    return found if found.dtype == np.float32 else found.view(np.float16).astype(np.float32)
