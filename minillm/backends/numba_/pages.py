"""Where is key j? The one question that tells a paged cache from a contiguous one, and so one kernel serves both.

The keys of a sequence lie in blocks of `size`, in the order of its block table. A contiguous cache is the case of one block
as long as need be:

    paged         table   7 │ 2 │ 5       key j at   table[j // size] · block + (j % size) · row
    contiguous    table   0               key j at                                     j   · row

The division is not made for each key: `find` also says how many keys lie side by side from there on, and the loops over keys
run over those. In blocks of 16 or more the loops over sixteen keys never meet an edge; smaller blocks take smaller steps. Values
are read one by one, so for them `find_all` lists where each begins, once for all heads and queries of a tile.

Kwon et al. 2023 (PagedAttention), arXiv:2309.06180.
"""

from typing import NamedTuple

import numpy as np
from numba import carray, njit, types
from numba.extending import intrinsic

from minillm.backends.numba_.simd import ask

EVERYTHING = 1 << 40  # keys: more than any sequence has
FIRST = np.zeros(1, np.int64)


class Pages(NamedTuple):
    """A sequence's block table. size: tokens in a block; blocks: that there are, in all; keys: tokens of the sequence."""

    table: np.ndarray
    size: int
    blocks: int
    keys: int


class Stored(NamedTuple):
    """Keys, or values, as kernels read them: flat memory, and the elements from one block, token and head to the next."""

    numbers: np.ndarray  # float32, the bits of float16, or bytes of rows
    block: int
    row: int
    head: int
    heads: int  # how many
    format: int  # of rows (kv_rows.py), 0 of floats


class MaskRule(NamedTuple):
    """attention.mask.Mask in numbers: query i stands at `offset` + i and sees `window` keys up to its own, if causal."""

    offset: int
    window: int
    causal: bool


def one_block(keys):  # -> Pages
    """View a contiguous cache as one block."""
    return Pages(FIRST, EVERYTHING, 1, keys)


@njit(error_model="numpy")
def find(key, pages, stored):  # -> element where it begins (of the first head), keys side by side from it on
    slot = key % pages.size
    return pages.table[key // pages.size] * stored.block + slot * stored.row, pages.size - slot


@njit(error_model="numpy")
def find_all(begins, key, count, pages, stored):
    """Find the elements where keys `key + j` begin: begins[j]."""
    j = 0
    while j < count:
        at, together = find(key + j, pages, stored)
        for i in range(j, min(j + together, count)):
            begins[i] = at + (i - j) * stored.row
        j += together


@njit(error_model="numpy")
def ask_for(numbers, at, count):
    """Ask memory for numbers[at … at + count - 1]."""
    for i in range(at, at + count, 64 // numbers.itemsize):
        ask(numbers, i)


@njit(error_model="numpy")
def all_there(pages):
    """Whether the table names only existing blocks. Asked before anything is read."""
    good = True
    for block in pages.table:
        good &= 0 <= block < pages.blocks
    return good


@intrinsic
def pointer(typing, address, like):
    """Turn an address into a pointer to numbers of the same type as those of an array."""
    result = types.CPointer(like.dtype)

    def emit(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(result))

    return result(types.int64, like), emit


@njit(error_model="numpy")
def memory(address, like):
    """View all memory from an address on as a flat array."""
    return carray(pointer(address, like), (EVERYTHING,))


@njit(error_model="numpy")
def borrowed(x):
    """View a contiguous array without a count of who uses it: whoever lends it keeps it meanwhile.

    An array that is passed on is counted up and down, by a call each; and a tile of keys takes a microsecond.
    """
    return carray(pointer(x.ctypes.data, x), x.shape)
