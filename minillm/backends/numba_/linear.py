"""y = x Wᵀ: for packed weights round x to 16 bits, then bands of rows side by side on the cores.

    x[t, c] ≈ x_scale[t, c / 32] · q[t, c]        q: int16, so the error is at most 2^-16 of the block's largest x

A matrix can be loaded to be multiplied with x in 8 bits, which is faster and no longer exact (backends/activations.py).
Float weights (floats.py) take x as it is. This is the front door for one matrix; the kernels of a layer (layer.py) and of a
step (stack.py) multiply by several in a region, with the same parts (multiply.py).
"""

from functools import partial

import numpy as np
from numba import njit

from minillm.backends import without_kernels
from minillm.backends.activations import rounded
from minillm.backends.adapted import Adapted, wide
from minillm.backends.numba_ import floats
from minillm.backends.numba_.atomics import job
from minillm.backends.numba_.bands import handle_at, operand, with_room
from minillm.backends.numba_.compiled import kernel
from minillm.backends.numba_.crossover import SERIAL
from minillm.backends.numba_.floats import FloatMatrix
from minillm.backends.numba_.handles import handle
from minillm.backends.numba_.multiply import multiply, product_tasks, round_row
from minillm.backends.numba_.packed import BAND, PackedMatrix, can_pack, pack, unpack_rows
from minillm.backends.numba_.plain import linear_plain
from minillm.backends.numba_.processor import PLAIN
from minillm.backends.numba_.tasks import begin_rows, new_board, next_rows, worker
from minillm.backends.numba_.team import launch, team, threads
from minillm.backends.numba_.thin import Thin, low_room, routes_of
from minillm.backends.numpy_ import load_matrix as as_float32
from minillm.terminal import notice

FRESH, ADD = np.array([0, 1, 0]), np.array([0, 1, 1])  # multiply.py: the first matrix of a table, and whether y counts
FRESH.flags.writeable = ADD.flags.writeable = False  # of the type that constants of kernels have


@njit
def times_tokens_part(number, threads, board, which, handles, routes, h, y):
    w, h = worker(number, threads, board), operand(h.x) if len(h.x) <= SERIAL else h
    bits = handle_at(handles, 0).rounds
    if bits:
        begin_rows(w, len(y))
        while True:
            first, last = next_rows(w, len(y))
            if first == last:
                break
            for t in range(first, last):
                round_row(h, t, bits)
    thin = Thin(routes.runs, routes.handles[0], low_room(routes))
    multiply(w, which, handles, thin, h, y)


@kernel()
def times_tokens(words, threads, which, handles, routes, x, y):
    """Compute y = (add · y) + x Wᵀ. handles: (1, 6); which: FRESH or ADD."""
    board = new_board(threads, product_tasks(threads))
    launch(words, job(times_tokens_part, (threads, board, which, handles, routes, operand(x), y)))


def times(x, weight, which, y):  # -> y
    """Call times_tokens. weight: a matrix, or one with adapters."""
    handles = np.array([handle(wide(weight))], np.int64)
    with team() as words:
        times_tokens(words, threads(), which, handles, routes_of(weight), np.ascontiguousarray(x, np.float32), y)
    return y


def linear(x, weight, bias=None):  # (n, columns) float32, PackedMatrix or FloatMatrix, (rows,) -> (n, rows)
    """Compute layers.linear. Rows of the result are padded to whole bands in memory, where a band is not full."""
    matrix = wide(weight)
    if PLAIN and isinstance(matrix, PackedMatrix):
        y = plain(x, weight)
    else:
        y = times(x, weight, FRESH, np.empty((with_room(len(x)), matrix.padded_rows), np.float32)[: len(x)])[:, : matrix.shape[0]]
    return y if bias is None else y + bias


def add_linear(x, h, weight):  # (n, rows), (n, columns), PackedMatrix or FloatMatrix -> (n, rows)
    """Compute layers.add_linear, but the sum begins at x instead of 0."""
    matrix = wide(weight)
    if not can_fuse(matrix):
        return x + linear(h, weight)
    return times(h, weight, ADD, widened(x, matrix.padded_rows))[:, : matrix.shape[0]]


def plain(x, weight):  # (n, columns), PackedMatrix, or Adapted -> (n, rows)
    """Compute linear on the portable path, which multiplies floats: 8 bits of x as well, rounded and made floats again."""
    matrix = wide(weight)
    y = linear_plain(rounded(x) if matrix.x_bits == 8 and not matrix.layout.levels else x, matrix)
    for rows, a, b in weight.parts if isinstance(weight, Adapted) else ():
        y[rows] += linear(linear(x[rows], a), b)
    return y


def can_fuse(*weights):
    """Whether fused kernels can take these: rows of x of whole registers, and the plain path not asked for."""
    return not PLAIN and all(isinstance(w, PackedMatrix | FloatMatrix) and w.shape[1] % BAND == 0 for w in weights)


def widened(x, columns):  # (n, d) -> (n, columns), a copy with room at the end of each row, and for more tokens (bands.py)
    y = np.empty((with_room(len(x)), columns), np.float32)[: len(x)]
    y[:, : x.shape[1]] = x
    return y


def int8_activations():  # -> {name: operation}
    """Return what changes where x is rounded to 8 bits: how matrices are loaded, since each knows what it is multiplied with."""
    return {"load_matrix": partial(load_matrix, x_bits=8)}


def embed(tokens, table):  # (n,), PackedMatrix or FloatMatrix -> (n, columns) float32
    """Look up rows of the table, as layers.embed."""
    return (unpack_rows if isinstance(table, PackedMatrix) else floats.rows_of)(table, np.asarray(tokens))


def load_matrix(tensor, x_bits=16):  # a stored tensor, 16 or 8 -> PackedMatrix, FloatMatrix, or float32 for a vector
    """Convert a stored tensor for `linear` and `embed`: packed types and float16 stay what they are, others become float32.

    So does what has a layout and cannot be packed: MXFP4 with scales near float32's end, which no model has, but a file can.
    """
    if len(tensor.shape) != 2:
        return as_float32(tensor)
    if can_pack(tensor):
        return pack(tensor, x_bits)
    if without_kernels("numba", [tensor.type.name]):
        notice(f"numba has no kernels for {tensor.type.name}: such matrices become float32 in memory.")
    return floats.pack_floats(tensor)
