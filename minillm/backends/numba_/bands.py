"""Bands of rows times tokens as a piece of machine code with an address: compiled once for a layout, called by every kernel.

The innermost step (tile.py) is straight code, thousands of instructions of it, another for each layout and number of
tokens. A kernel that contained the steps of all the matrices it multiplies would take the compiler half a minute. So the
loop over bands and tokens is a function of its own for each layout, and a matrix carries its address: to a kernel, a
matrix is six numbers, and which types a model mixes makes no difference to it.

    MatrixHandle    address of the code, address of the records, blocks in a band, bytes of a record, bands, rounds

A band's records are read once for up to eight tokens; with more tokens, once from memory and then from cache. Five to seven are
multiplied as eight, which takes less time than four, two and one: an Operand and its result have room (`with_room`).

The code of float matrices (floats.py) has the same signature, so kernels call it likewise. It alone reads x as it is, where the
code here reads codes: `rounds` says which, 0 or their bits, so that a kernel rounds only for a matrix that wants it.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, register_jitable

from minillm.backends.numba_.compiled import code
from minillm.backends.numba_.crossover import TOKENS
from minillm.backends.numba_.matrix_unit import bands_on_matrix_unit
from minillm.backends.numba_.processor import MATRIX_UNIT
from minillm.backends.numba_.tile import I64, band_times_tokens

TILE = 16  # tokens at a time on the matrix unit
SIGNATURE = types.void(*[types.int64] * 14)


class MatrixHandle(NamedTuple):
    """A matrix as a kernel sees it: addresses and sizes."""

    code: int  # address
    records: int  # address
    blocks: int  # in a band
    record_bytes: int
    bands: int  # of 16 rows; 0: there is no such matrix
    rounds: int  # bits that x is rounded to, 16 or 8; 0: it is multiplied with x as it is


class Operand(NamedTuple):
    """The operand of a product: x, and the same rounded in blocks of 32 columns (multiply.round_row).

    For 16 bits; rounded to 8, codes are bytes in the first half of the room, and sums float32 (tile.round_block).
    """

    x: np.ndarray  # (n, columns) float32
    codes: np.ndarray  # (with_room(n), columns) int16
    scale: np.ndarray  # (with_room(n), columns / 32) float32
    sums: np.ndarray  # (with_room(n), columns / 16) int32
    parts: np.ndarray  # (with_room(n), 2 · columns) bfloat16, as int16: for the matrix unit (matrix_unit.py), else of no rows


@register_jitable
def with_room(n):  # tokens -> tokens for which there must be room
    """Count the tokens that n are multiplied as."""
    if MATRIX_UNIT and n % TILE > TOKENS:
        return n + TILE - n % TILE
    return n + TOKENS - n % TOKENS if n % TOKENS > TOKENS // 2 else n


@njit
def operand(x):  # (n, columns) -> Operand, yet to be rounded
    (n, columns), rows = x.shape, with_room(len(x))
    blocks = columns // 32
    scale, sums = whole_lines(rows, blocks, np.float32(0)), whole_lines(rows, 2 * blocks, np.int32(0))
    scale[n:] = np.float32(0)  # zero times anything: nothing slow, like denormal numbers
    parts = whole_lines(rows if MATRIX_UNIT and rows >= TILE else 0, 2 * columns, np.int16(0))
    return Operand(x, whole_lines(rows, columns, np.int16(0)), scale, sums, parts)


@njit
def whole_lines(rows, columns, zero):  # -> (rows, columns), of the type of zero
    """Make an array that begins with a cache line, with 128 bytes of room after it: matrix_unit.py reads so far."""
    width = np.full(1, zero).itemsize
    room = np.empty(rows * columns + 192 // width, type(zero))
    shift = -room.ctypes.data % 64 // width
    return room[shift : shift + rows * columns].reshape(rows, columns)


@njit
def new_operand(n, columns):  # -> Operand, yet to be filled
    return operand(np.empty((n, columns), np.float32))


@lru_cache
def bands_times_tokens(layout, x_bits=16):  # number of a layout, 16 or 8 -> what has `.address`
    """Compile the code for a layout: bands first … last - 1 times all tokens. Every argument is a number or an address."""
    on_unit, width = MATRIX_UNIT and x_bits == 16, x_bits // 8

    @code(SIGNATURE)
    def run(first, last, add, records, blocks, record_bytes, rows, x, scales, sums, parts, n, y, stride):
        columns, before = 32 * blocks, 0
        if on_unit and n >= TILE:
            before = n // TILE * TILE
            bands_on_matrix_unit(layout, first, last, add, records, blocks, parts, scales, sums, before, y, stride)
            if before == n:
                return
        for band in range(first, last):
            at = records + band * blocks * record_bytes
            t = before
            while t < n:
                c, s, u = x + width * columns * t, scales + 4 * blocks * t, sums + 8 * blocks * t
                place = y + 4 * (t * stride + 16 * band)
                if t + TOKENS <= n:
                    band_times_tokens(TOKENS, layout, x_bits, add, at, blocks, c, s, u, columns, place, stride)
                    t += TOKENS
                elif t + 4 <= n:
                    band_times_tokens(4, layout, x_bits, add, at, blocks, c, s, u, columns, place, stride)
                    t += 4
                elif t + 2 <= n:
                    band_times_tokens(2, layout, x_bits, add, at, blocks, c, s, u, columns, place, stride)
                    t += 2
                else:
                    band_times_tokens(1, layout, x_bits, add, at, blocks, c, s, u, columns, place, stride)
                    t += 1

    return run


@intrinsic
def call_code(typing, address, first, last, add, records, blocks, record_bytes, rows, x, scales, sums, parts, n, y, stride):
    """Call machine code of SIGNATURE at an address."""

    def emit(context, builder, signature, args):
        kind = ir.FunctionType(ir.VoidType(), [I64] * 14).as_pointer()
        builder.call(builder.inttoptr(args[0], kind), args[1:])
        return context.get_dummy_value()

    return types.void(types.int64, *SIGNATURE.args), emit


@njit
def handle_at(table, i):  # (handles, 6) -> MatrixHandle
    t = table[i]
    return MatrixHandle(t[0], t[1], t[2], t[3], t[4], t[5])


@njit
def bands_times_all(first, last, add, handle, h, to, stride):
    """Compute bands first … last - 1 times all tokens of an Operand. Where it is rounded, y has room for with_room(n) tokens."""
    n = len(h.x)
    bands_times(first, last, add, handle, h, 0, with_room(n) if handle.rounds else n, to, stride)


@njit
def bands_times(first, last, add, handle, h, row, rows, to, stride):
    """Compute bands first … last - 1 times `rows` tokens of an Operand, from `row` on: y[t] = (add · y[t]) + W h[t].

    to: address of the matrix's first row of the first token's result; stride: numbers from token to token there.
    """
    columns = h.x.shape[1]
    x, codes = h.x.ctypes.data + 4 * row * columns, h.codes.ctypes.data + handle.rounds // 8 * row * columns
    scale, sums = h.scale.ctypes.data + columns // 8 * row, h.sums.ctypes.data + columns // 4 * row
    parts = h.parts.ctypes.data + 4 * row * columns
    records, blocks, record_bytes = handle.records, handle.blocks, handle.record_bytes
    call_code(handle.code, first, last, add, records, blocks, record_bytes, x, codes, scale, sums, parts, rows, to, stride)
