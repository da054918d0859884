"""Rows of a quantized KV cache in kernels: encoded where they are appended, read where they lie.

    write      float32 of a head  →  [rot4: turned]  →  scale, minimum  →  codes  →  d + 2, or d/2 + 4 bytes in a page
    keys       rows of 16 tokens, or 32  →  codes, turned; q · k = scale · (q · codes) + minimum · Σ q, scale and minimum last
    values     rows of 16 tokens  →  float32 in scratch that stays in the nearest cache, for all queries of the group

The bytes are those of quantization/kv_formats.py, where the formats are told: the same operations on float32 in the same order.
A cache of floats passes here, too: `either` chooses by the type of what is stored, while compiling, so that kernels over floats
hold none of this.
"""

import math

import numpy as np
from numba import njit, types
from numba.extending import overload

from minillm.backends.numba_.compiled import kernel
from minillm.backends.numba_.kv_codes import (
    E4M3,
    FP8,
    FP8_FACTOR,
    HIGH,
    INT4,
    INT8,
    LOW,
    ROT4,
    as_half,
    half_at,
    halves_of,
    load_codes,
    put_e4m3,
    put_half,
    put_whole,
    turn_codes,
    turned16,
)
from minillm.backends.numba_.online import MINUS_INF, ZERO
from minillm.backends.numba_.simd import add, div, fma, load, max_of, maximum, mul, splat, store, store_as, sub, sum_of
from minillm.quantization.fp8 import LARGEST

KV_FORMATS = ("int8", "int4", "fp8", "rot4")  # that kernels read
FLOATS = 0  # Stored.format of numbers
MOST, MOST_E4M3 = np.float32(65504), np.float32(LARGEST)  # of float16, of e4m3


def of_rows(stored):  # Numba's type of a Stored -> bool
    """Whether rows of bytes are stored."""
    return stored.types[stored.fields.index("numbers")].dtype == types.uint8


@njit
def four_bits(format):
    return format in (INT4, ROT4)


@njit
def row_bytes(d, format):
    return d // 2 + 4 if four_bits(format) else d + 2


def width_of(stored, d):
    """Count the elements of a token's keys of one head, as they are stored."""


@overload(width_of)
def width_for(stored, d):
    return (lambda stored, d: row_bytes(d, stored.format)) if of_rows(stored) else (lambda stored, d: d)


# --- rotation ----------------------------------------------------------------------------------------------------------------


@njit(error_model="numpy")
def turn(x, at, d):
    """Compute quantization.hadamard.walsh_hadamard of x[at … at + d - 1], in place: same operations, same bits."""
    for c in range(0, d, 16):
        store(x, at + c, turned16(load(x, at + c)))
    half = 16
    while half < d:
        for first in range(0, d, 2 * half):
            for c in range(at + first, at + first + half, 16):
                a, b = load(x, c), load(x, c + half)
                store(x, c, add(a, b))
                store(x, c + half, sub(a, b))
        half *= 2
    length = splat(np.float32(math.sqrt(d)))
    for c in range(at, at + d, 16):
        store(x, c, div(load(x, c), length))


@njit
def turn_heads(x, at, heads, d, format):
    """Turn so many heads, where the format is one of turned rows."""
    if format == ROT4:
        for head in range(heads):
            turn(x, at + head * d, d)


# --- writing -----------------------------------------------------------------------------------------------------------------


def write(stored, place, x, at, d, codes):
    """Write x[at … at + d - 1], of a head, to stored.numbers[place …]. codes: (d,) uint8, room. Returns whether all was well."""


@overload(write)
def write_for(stored, place, x, at, d, codes):
    return write_row if of_rows(stored) else write_floats


def write_floats(stored, place, x, at, d, codes):
    for c in range(0, d, 16):
        store_as(stored.numbers, place + c, load(x, at + c))
    return True


def write_row(stored, place, x, at, d, codes):
    return encode_row(stored.numbers, place, x, at, d, stored.format, codes)


@njit(error_model="numpy")
def encode_row(to, place, x, at, d, format, codes):
    """Encode d numbers, turned already. False where one is not finite, or scale or minimum are beyond float16."""
    highest, lowest, poison = splat(MINUS_INF), splat(MINUS_INF), splat(ZERO)
    for c in range(at, at + d, 16):
        some = load(x, c)
        highest, lowest = maximum(some, highest), maximum(sub(splat(ZERO), some), lowest)
        poison = fma(some, splat(ZERO), poison)  # 0 × anything finite stays 0
    top, bottom = max_of(highest) + ZERO, ZERO - max_of(lowest)  # -0 becomes 0
    if four_bits(format):
        scale, minimum, end = as_half((top - bottom) / np.float32(15)), as_half(bottom), place + d // 2
        put_half(to, end + 2, minimum)
    else:
        largest = MOST_E4M3 if format == FP8 else np.float32(127)
        scale, minimum, end = as_half((max(top, -bottom) + ZERO) / largest), ZERO, place + d
    put_half(to, end, scale)
    step = splat(scale if scale != ZERO else np.float32(np.inf))
    for c in range(0, d, 16):
        some = load(x, at + c)
        if format == INT8:
            put_whole(to, place + c, div(some, step), np.float32(-127), np.float32(127))
        elif format == FP8:
            put_e4m3(to, place + c, div(some, step))
        else:
            put_whole(codes, c, div(sub(some, splat(minimum)), step), ZERO, np.float32(15))
    if four_bits(format):
        half = d // 2
        for i in range(half):
            to[place + i] = codes[i] | codes[half + i] << 4
    return sum_of(poison) == ZERO and scale <= MOST and abs(minimum) <= MOST


@njit
def encode_tokens(first, last, x, d, format, rows, room, codes):
    """Encode heads first … last - 1 of x, flat. room: (d,)"""
    good, width = True, row_bytes(d, format)
    for i in range(first, last):
        for c in range(0, d, 16):
            store(room, c, load(x, i * d + c))
        turn_heads(room, 0, 1, d, format)
        good &= encode_row(rows, i * width, room, 0, d, format, codes)
    return good


@kernel()
def encode(x, d, format, rows):
    """Encode heads of d numbers, a multiple of 16, one after the other in x, to rows. Both flat. Returns whether all was well."""
    return encode_tokens(0, len(x) // d, x, d, format, rows, np.empty(d, np.float32), np.empty(d, np.uint8))


def encode_kv(x, format):  # (n, heads, d), KVFormat -> (n, heads, width) uint8
    """Compute format.encode."""
    n, heads, d = x.shape
    if d % 16 == 0:
        rows = np.empty((n, heads, format.width(d)), np.uint8)
        if encode(np.ascontiguousarray(x, np.float32).reshape(-1), d, format.number, rows.reshape(-1)):
            return rows
    return format.encode(x)  # which says what is wrong


@kernel()
def turn_all(x, d):
    """Turn heads of d numbers, one after the other in x, flat, in place."""
    turn_heads(x, 0, len(x) // d, d, ROT4)


def rotated(x, format):  # (n, heads, d), KVFormat -> (n, heads, d)
    """Compute format.rotate."""
    if not format.rotated or x.shape[2] % 16:
        return format.rotate(x)
    turned = np.array(x, np.float32, order="C")
    turn_all(turned.reshape(-1), x.shape[2])
    return turned


# --- reading -----------------------------------------------------------------------------------------------------------------


@njit
def in_registers(d, format):
    """Whether codes fill registers, sixteen and sixteen. Else they are read one by one."""
    return d % (32 if four_bits(format) else 16) == 0


@njit
def code_at(rows, at, c, d, format):  # -> float32
    """Read code c of a row."""
    if four_bits(format):
        pair = rows[at + c % (d // 2)]
        return np.float32(pair & 15 if c < d // 2 else pair >> 4)
    byte = rows[at + c]
    return E4M3[byte] if format == FP8 else np.float32(np.int8(byte))


@njit(error_model="numpy")
def scale_at(rows, at, d, format):  # -> scale, minimum
    if four_bits(format):
        return half_at(rows, at + d // 2), half_at(rows, at + d // 2 + 2)
    return half_at(rows, at + d) * (FP8_FACTOR if format == FP8 else np.float32(1)), ZERO


@njit(error_model="numpy", forceinline=True)
def read_scales(rows, begins, bi, at, d, format, numbers, j, apart):
    """Read the scales of 16 rows to numbers[j …], and their minima, where there are any, to numbers[j + apart …]."""
    if four_bits(format):
        store(numbers, j, halves_of(rows, begins, bi, at + d // 2))
        store(numbers, j + apart, halves_of(rows, begins, bi, at + d // 2 + 2))
    elif format == FP8:
        store(numbers, j, mul(halves_of(rows, begins, bi, at + d), splat(FP8_FACTOR)))
    else:
        store(numbers, j, halves_of(rows, begins, bi, at + d))


@njit(error_model="numpy")
def turn_rows(to, ti, to_row, rows, begins, bi, at, d, format):
    """Transpose the codes of 16 rows: to[ti + c·to_row + i] = code c of the row at begins[bi + i] + at."""
    half = d // 2
    if not in_registers(d, format):
        for i in range(16):
            for c in range(d):
                to[ti + c * to_row + i] = code_at(rows, begins[bi + i] + at, c, d, format)
    elif four_bits(format):
        for c in range(0, half, 16):
            turn_codes(to, ti + c * to_row, to_row, half * to_row, rows, begins, bi, at + c, INT4)
    elif format == FP8:
        for c in range(0, d, 16):
            turn_codes(to, ti + c * to_row, to_row, 0, rows, begins, bi, at + c, FP8)
    else:
        for c in range(0, d, 16):
            turn_codes(to, ti + c * to_row, to_row, 0, rows, begins, bi, at + c, INT8)


@njit(error_model="numpy")
def decode_row(to, ti, rows, at, d, format):
    """Decode a row: to[ti + c] = scale · code c + minimum."""
    scale, minimum = scale_at(rows, at, d, format)
    factor, least, half = splat(scale), splat(minimum), d // 2
    if not in_registers(d, format):
        for c in range(d):
            to[ti + c] = scale * code_at(rows, at, c, d, format) + minimum
    elif four_bits(format):
        for c in range(0, half, 16):
            store(to, ti + c, fma(load_codes(rows, at + c, LOW), factor, least))
            store(to, ti + half + c, fma(load_codes(rows, at + c, HIGH), factor, least))
    elif format == FP8:
        for c in range(0, d, 16):
            store(to, ti + c, mul(load_codes(rows, at + c, FP8), factor))
    else:
        for c in range(0, d, 16):
            store(to, ti + c, mul(load_codes(rows, at + c, INT8), factor))
