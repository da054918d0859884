"""y = x Wᵀ: for packed weights round x to 16 bits, then bands of rows side by side on the cores.

    x[t, c] ≈ x_scale[t, c / 32] · q[t, c]        q: int16, so the error is at most 2^-16 of the block's largest x

Float weights (floats.py) take x as it is. Bands are dealt to the cores in contiguous stretches (bands.py). The parts are
functions that are inlined into a kernel, because the kernels of a layer (layer.py) and of a step (stack.py) are made of the
same ones.
"""

import os

import numba
import numpy as np
from numba import njit, prange

from minillm.backends.adapted import Adapted
from minillm.backends.numba_ import floats
from minillm.backends.numba_.bands import MatrixHandle, Operand, bands_times_tokens, room, share
from minillm.backends.numba_.compiled import kernel
from minillm.backends.numba_.crossover import SERIAL
from minillm.backends.numba_.floats import FloatMatrix
from minillm.backends.numba_.loops import ADD, FRESH
from minillm.backends.numba_.packed import BAND, LAYOUTS, PackedMatrix, pack, unpack_rows
from minillm.backends.numba_.plain import linear_plain
from minillm.backends.numba_.team import team
from minillm.backends.numba_.tile import round_block
from minillm.backends.numpy_ import load_matrix as as_float32

PLAIN = os.environ.get("MINILLM_KERNELS") == "plain"  # the portable path of plain.py in place of the vector step


def handle(matrix):  # PackedMatrix or FloatMatrix -> MatrixHandle
    """Make the handle of a matrix (bands.py)."""
    if isinstance(matrix, PackedMatrix):
        return MatrixHandle(bands_times_tokens(matrix.number).address, *matrix.place, rounds=1)
    return MatrixHandle(floats.bands_times_tokens(matrix.width).address, *matrix.place, rounds=0)


@njit(inline="always")
def round_row(h, t):
    """Round token t of an Operand: x -> codes, scale, sums."""
    x, codes, scale, sums = h.x[t], h.codes[t], h.scale[t], h.sums[t]
    for block in range(len(scale)):
        round_block(x, 32 * block, codes, scale, sums, block)


@njit(inline="always")
def round_rows(h):
    """Round all tokens."""
    if len(h.x) <= SERIAL:
        for t in range(len(h.x)):
            round_row(h, t)
    else:
        for t in prange(len(h.x)):
            round_row(h, t)


@kernel(parallel=True)
def times_tokens(threads, add, handle, x, y):
    """Compute y = (add · y) + x Wᵀ."""
    h = Operand(x, *room(*x.shape))
    if handle.rounds:
        round_rows(h)
    for part in prange(threads):
        share(part, threads, add, handle, h, y)


def linear(x, weight, bias=None):  # (n, columns) float32, PackedMatrix or FloatMatrix, (rows,) -> (n, rows)
    """Compute layers.linear. Rows of the result are padded to whole bands in memory, where a band is not full."""
    if isinstance(weight, Adapted):
        y = add_low_rank(linear(x, weight.matrix), x, weight.parts)
    elif PLAIN and isinstance(weight, PackedMatrix):
        y = linear_plain(x, weight)
    else:
        y = np.empty((len(x), weight.padded_rows), np.float32)
        with team():
            times_tokens(numba.get_num_threads(), FRESH, handle(weight), np.ascontiguousarray(x, np.float32), y)
        y = y[:, : weight.shape[0]]
    return y if bias is None else y + bias


def add_linear(x, h, weight):  # (n, rows), (n, columns), PackedMatrix or FloatMatrix -> (n, rows)
    """Compute layers.add_linear, but the sum begins at x instead of 0."""
    if isinstance(weight, Adapted):
        return add_low_rank(add_linear(x, h, weight.matrix), h, weight.parts)
    if not can_fuse(weight):
        return x + linear(h, weight)
    y = widened(x, weight.padded_rows)
    times_tokens(numba.get_num_threads(), ADD, handle(weight), np.ascontiguousarray(h, np.float32), y)
    return y[:, : weight.shape[0]]


def add_low_rank(y, x, parts):  # (n, rows), (n, columns), [(rows, A, B)] -> y
    """Add y[rows] += B A x[rows], as thin.py does in the kernels."""
    for rows, a, b in parts:
        y[rows] = add_linear(y[rows], linear(x[rows], a), b)
    return y


def can_fuse(*weights):
    """Whether fused kernels can take these: rows of x of whole registers, and the plain path not asked for."""
    return not PLAIN and all(isinstance(w, PackedMatrix | FloatMatrix) and w.shape[1] % BAND == 0 for w in weights)


def widened(x, columns):  # (n, d) -> (n, columns), a copy with room at the end of each row
    y = np.empty((len(x), columns), np.float32)
    y[:, : x.shape[1]] = x
    return y


def embed(tokens, table):  # (n,), PackedMatrix or FloatMatrix -> (n, columns) float32
    """Look up rows of the table, as layers.embed."""
    return (unpack_rows if isinstance(table, PackedMatrix) else floats.rows_of)(table, np.asarray(tokens))


def load_matrix(tensor):  # a stored tensor -> PackedMatrix, FloatMatrix, or float32 for a vector
    """Convert a stored tensor for `linear` and `embed`: packed types stay packed, float16 stays float16."""
    if len(tensor.shape) != 2:
        return as_float32(tensor)
    return pack(tensor) if tensor.type.name in LAYOUTS else floats.pack_floats(tensor)
