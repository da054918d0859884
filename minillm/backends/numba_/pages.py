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

import numpy as np
from numba import carray, njit, types
from numba.extending import intrinsic

EVERYTHING = 1 << 40  # keys: more than any sequence has
ONE_BLOCK = np.zeros(1, np.int64), EVERYTHING, 1  # a contiguous cache: table, block size, blocks that there are


@njit(error_model="numpy")
def find(key, pages, strides):  # -> element where it begins (of the first head), keys side by side from it on
    """pages: (table, block size, number of blocks). strides: elements from block to block, token to token, head to head."""
    table, size, _ = pages
    block, row, _ = strides
    slot = key % size
    return table[key // size] * block + slot * row, size - slot


@njit(error_model="numpy")
def find_all(begins, key, count, pages, strides):
    """begins[j] = the element where key `key + j` begins."""
    j = 0
    while j < count:
        at, together = find(key + j, pages, strides)
        for i in range(j, min(j + together, count)):
            begins[i] = at + (i - j) * strides[1]
        j += together


@njit(error_model="numpy")
def all_there(pages):
    """Does the table name only blocks that there are? Asked before anything is read."""
    table, _, blocks = pages
    good = True
    for block in table:
        good &= 0 <= block < blocks
    return good


@intrinsic
def pointer(typing, address, like):
    """An address as a pointer to numbers of the same type as those of an array."""
    result = types.CPointer(like.dtype)

    def emit(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(result))

    return result(types.int64, like), emit


@njit(error_model="numpy")
def memory(address, like):
    """All that lies from an address on, as a flat array."""
    return carray(pointer(address, like), (EVERYTHING,))
