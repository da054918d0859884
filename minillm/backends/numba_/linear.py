"""y = x Wᵀ over packed weights: round x to 16 bits, then bands of rows side by side on the cores.

    x[t, c] ≈ x_scale[t, c / 32] · q[t, c]        q: int16, so the error is at most 2^-16 of the block's largest x

A band's records are read once for up to eight tokens; with more tokens, once from memory and then from cache. Bands are
dealt to the cores in contiguous stretches, so that each reads one long tape and no two write to one cache line.

The work is split into functions that are inlined into a kernel (`multiply`, `round_row`), because a layer's kernels
(feed_forward.py) are made of the same parts; a layout reaches `band_times_tokens` as constants of the kernel.
"""

from functools import lru_cache

import numba
import numpy as np
from numba import njit, prange

from minillm.backends.numba_.compiled import kernel
from minillm.backends.numba_.packed import BAND, BLOCK, LAYOUTS, aligned, pack, unpack_rows
from minillm.backends.numba_.tile import band_times_tokens, round_block
from minillm.backends.numpy_ import load_matrix as as_float32


class Rounded:
    """Room for x in 16 bits: q (n, columns) int16, scale (n, columns / 32), and the sums of q over 16 columns each."""

    def __init__(self, n, columns):
        self.arrays = (
            aligned((n, columns), np.int16),
            np.empty((n, columns // BLOCK), np.float32),
            np.empty((n, columns // 16), np.int32),
        )


@njit(inline="always")
def round_row(x, q, scale, sums):
    """One token: (columns,) float32 -> q, scale, sums."""
    for block in range(len(scale)):
        round_block(x, 32 * block, q, scale, sums, block)


def tape_of(weight):  # PackedMatrix -> address, blocks in a band, bytes in a record, bands
    """Where a kernel finds a matrix."""
    bands, blocks, record_bytes = weight.records.shape
    return weight.address, blocks, record_bytes, bands


@njit(inline="always")
def multiply(bits, group, offset, wide, minima, tape, q, scale, sums, y, threads):
    """y[t, :] = W x[t] for all tokens. tape: as tape_of gives it. y: (n, 16 · bands)."""
    records, blocks, record_bytes, bands = tape
    n = len(q)
    columns, y_stride = q.shape[1], y.shape[1]
    for part in prange(threads):
        for band in range(part * bands // threads, (part + 1) * bands // threads):
            at = records + band * blocks * record_bytes
            t = 0
            while t < n:
                qa, sa, ua = q[t:].ctypes.data, scale[t:].ctypes.data, sums[t:].ctypes.data
                ya = y.ctypes.data + 4 * (t * y_stride + 16 * band)
                if t + 8 <= n:
                    band_times_tokens(8, bits, group, offset, wide, minima, at, blocks, qa, sa, ua, columns, ya, y_stride)
                    t += 8
                elif t + 4 <= n:
                    band_times_tokens(4, bits, group, offset, wide, minima, at, blocks, qa, sa, ua, columns, ya, y_stride)
                    t += 4
                elif t + 2 <= n:
                    band_times_tokens(2, bits, group, offset, wide, minima, at, blocks, qa, sa, ua, columns, ya, y_stride)
                    t += 2
                else:
                    band_times_tokens(1, bits, group, offset, wide, minima, at, blocks, qa, sa, ua, columns, ya, y_stride)
                    t += 1


@lru_cache
def linear_kernel(bits, group, offset, wide, minima):
    """The product for one layout, compiled on first use."""

    @kernel(parallel=True)
    def run(x, tape, q, scale, sums, y, threads):
        for t in prange(len(x)):
            round_row(x[t], q[t], scale[t], sums[t])
        multiply(bits, group, offset, wide, minima, tape, q, scale, sums, y, threads)

    return run


def linear(x, weight, bias=None):  # (n, columns) float32, PackedMatrix, (rows,) -> (n, rows)
    """As layers.linear. The result is a view of an array whose rows are padded to whole bands."""
    n, columns = x.shape
    x, y = np.ascontiguousarray(x, np.float32), aligned((n, weight.records.shape[0] * BAND), np.float32)
    run = linear_kernel(*weight.layout.constants)
    run(x, tape_of(weight), *Rounded(n, columns).arrays, y, numba.get_num_threads())
    y = y[:, : weight.shape[0]]
    return y if bias is None else y + bias


def embed(tokens, table):  # (n,), PackedMatrix -> (n, columns) float32
    """As layers.embed: the rows of these tokens, unpacked."""
    return unpack_rows(table, tokens)


def load_matrix(tensor):  # a stored tensor -> PackedMatrix, or float32 array
    """What `linear` and `embed` take as a weight. Packed types stay packed; vectors and 16-bit types become float32."""
    return pack(tensor) if tensor.type.name in LAYOUTS and len(tensor.shape) == 2 else as_float32(tensor)
