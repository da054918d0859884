"""Float weights for the CPU's registers: bands of 64 rows, turned, and a matrix product of small blocks.

A column of a band is 64 consecutive numbers, four registers. For six tokens at a time the product keeps 6 × 4 registers of
sums and reads each weight once for all six: `outer_products`, the same inner loop that attention uses.

    band     columns × 64        w[c, r] = W[64 · band + r, c]       float32, or float16 as it is in the file

Weights in bfloat16 become float32: no instruction widens them sixteen at a time on every machine.
"""

from dataclasses import dataclass

import numba
import numpy as np
from numba import prange

from minillm.backends.numba_.compiled import kernel
from minillm.backends.numba_.loops import FRESH, outer_products
from minillm.backends.numpy_ import load_matrix as as_float32

BAND = 64


@dataclass(frozen=True)
class FloatMatrix:
    """A (rows, columns) matrix as (bands, columns, 64), float32 or float16 bits. The last band is filled with zeros."""

    bands: np.ndarray
    shape: tuple[int, int]

    @property
    def nbytes(self):
        return self.bands.nbytes


def turn(tensor):  # a stored tensor (rows, columns) of a plain type -> FloatMatrix
    rows, columns = tensor.shape
    halves = tensor.type.name == "F16"
    weights = tensor.raw.view(np.uint16).reshape(rows, columns) if halves else as_float32(tensor)
    bands = np.zeros((-(-rows // BAND), columns, BAND), weights.dtype)
    for i, band in enumerate(bands):
        part = weights[i * BAND : (i + 1) * BAND]
        band[:, : len(part)] = part.T
    return FloatMatrix(bands, (rows, columns))


@kernel(parallel=True)
def multiply(x, w, columns, y, threads):
    """y[t] = W x[t]. w: the bands, flat; y: (n, 64 · bands)."""
    n, stride = y.shape
    bands = stride // 64
    for part in prange(threads):
        for band in range(part * bands // threads, (part + 1) * bands // threads):
            at, t = band * columns * 64, 0
            while t < n:
                place = t * stride + 64 * band
                if t + 6 <= n:
                    outer_products(y, place, stride, x, t * columns, columns, w, at, 64, columns, 6, 4, FRESH)
                    t += 6
                elif t + 2 <= n:
                    outer_products(y, place, stride, x, t * columns, columns, w, at, 64, columns, 2, 4, FRESH)
                    t += 2
                else:
                    outer_products(y, place, stride, x, t * columns, columns, w, at, 64, columns, 1, 4, FRESH)
                    t += 1


def linear(x, weight):  # (n, columns) float32, FloatMatrix -> (n, rows)
    """As layers.linear."""
    y = np.empty((len(x), len(weight.bands) * BAND), np.float32)
    x = np.ascontiguousarray(x, np.float32)
    multiply(x, weight.bands.reshape(-1), weight.shape[1], y, numba.get_num_threads())
    return y[:, : weight.shape[0]]


def rows_of(weight, rows):  # FloatMatrix, (n,) -> (n, columns) float32
    found = weight.bands[rows // BAND, :, rows % BAND]
    return found if found.dtype == np.float32 else found.view(np.float16).astype(np.float32)
