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
from minillm.backends.numba_.bands import bands_times_tokens, share
from minillm.backends.numba_.compiled import kernel
from minillm.backends.numba_.crossover import SERIAL
from minillm.backends.numba_.floats import FloatMatrix
from minillm.backends.numba_.packed import BAND, LAYOUTS, PackedMatrix, pack, unpack_rows
from minillm.backends.numba_.plain import linear_plain
from minillm.backends.numba_.tile import round_block
from minillm.backends.numpy_ import load_matrix as as_float32

PLAIN = os.environ.get("MINILLM_KERNELS") == "plain"  # the portable path of plain.py in place of the vector step
FRESH, ADD = 0, 1


def tape(matrix):  # PackedMatrix or FloatMatrix -> six numbers
    """All that a kernel must know of a matrix (bands.py)."""
    if isinstance(matrix, PackedMatrix):
        return bands_times_tokens(matrix.number).address, *matrix.place, 1
    return floats.bands_times_tokens(matrix.width).address, *matrix.place, 0


@njit
def rounds(tape):
    """Does this matrix want x rounded?"""
    return tape[5] != 0


@njit
def room(n, columns):  # -> (n, columns) int16, (n, columns / 32) float32, (n, columns / 16) int32
    """Where rounded x goes: codes, scales, and sums of codes."""
    return np.empty((n, columns), np.int16), np.empty((n, columns // 32), np.float32), np.empty((n, columns // 16), np.int32)


@njit(inline="always")
def round_row(x, codes, scale, sums):
    """One token: (columns,) float32 -> codes, scale, sums."""
    for block in range(len(scale)):
        round_block(x, 32 * block, codes, scale, sums, block)


@njit(inline="always")
def round_rows(x, codes, scale, sums):
    """All tokens."""
    if len(x) <= SERIAL:
        for t in range(len(x)):
            round_row(x[t], codes[t], scale[t], sums[t])
    else:
        for t in prange(len(x)):
            round_row(x[t], codes[t], scale[t], sums[t])


@kernel(parallel=True)
def times_tokens(x, tape, add, y, threads):
    """y = (add · y) + x Wᵀ."""
    codes, scale, sums = room(*x.shape)
    if rounds(tape):
        round_rows(x, codes, scale, sums)
    for part in prange(threads):
        share(part, threads, add, tape, x, codes, scale, sums, y)


def linear(x, weight, bias=None):  # (n, columns) float32, PackedMatrix or FloatMatrix, (rows,) -> (n, rows)
    """As layers.linear. Rows of the result are padded to whole bands in memory, where a band is not full."""
    if isinstance(weight, Adapted):
        y = beside(linear(x, weight.matrix), x, weight.parts)
    elif PLAIN and isinstance(weight, PackedMatrix):
        y = linear_plain(x, weight)
    else:
        y = np.empty((len(x), weight.padded_rows), np.float32)
        times_tokens(np.ascontiguousarray(x, np.float32), tape(weight), FRESH, y, numba.get_num_threads())
        y = y[:, : weight.shape[0]]
    return y if bias is None else y + bias


def add_linear(x, h, weight):  # (n, rows), (n, columns), PackedMatrix or FloatMatrix -> (n, rows)
    """As layers.add_linear, but the sum begins at x instead of 0."""
    if isinstance(weight, Adapted):
        return beside(add_linear(x, h, weight.matrix), h, weight.parts)
    if not fused(weight):
        return x + linear(h, weight)
    y = padded(x, weight.padded_rows)
    times_tokens(np.ascontiguousarray(h, np.float32), tape(weight), ADD, y, numba.get_num_threads())
    return y[:, : weight.shape[0]]


def beside(y, x, parts):  # (n, rows), (n, columns), [(rows, A, B)] -> y
    """y[rows] += B A x[rows], as thin.py adds in the kernels."""
    for rows, a, b in parts:
        y[rows] = add_linear(y[rows], linear(x[rows], a), b)
    return y


def fused(*weights):
    """May kernels of several steps take these: rows of x of whole registers, and the plain path not asked for?"""
    return not PLAIN and all(isinstance(w, PackedMatrix | FloatMatrix) and w.shape[1] % BAND == 0 for w in weights)


def padded(x, columns):  # (n, d) -> (n, columns), a copy with room at the end of each row
    y = np.empty((len(x), columns), np.float32)
    y[:, : x.shape[1]] = x
    return y


def embed(tokens, table):  # (n,), PackedMatrix or FloatMatrix -> (n, columns) float32
    """As layers.embed."""
    return (unpack_rows if isinstance(table, PackedMatrix) else floats.rows_of)(table, np.asarray(tokens))


def load_matrix(tensor):  # a stored tensor -> PackedMatrix, FloatMatrix, or float32 for a vector
    """What `linear` and `embed` take as a weight: packed types stay packed, float16 stays float16."""
    if len(tensor.shape) != 2:
        return as_float32(tensor)
    return pack(tensor) if tensor.type.name in LAYOUTS else floats.turn(tensor)
