"""y = x Wᵀ over packed weights: round x to 16 bits, then bands of rows side by side on the cores.

    x[t, c] ≈ x_scale[t, c / 32] · q[t, c]        q: int16, so the error is at most 2^-16 of the block's largest x

Every weight is read once for up to eight tokens; with more, once for every eight, from cache. Bands are dealt to the
cores in two contiguous halves, so that each reads one long tape.
"""

from functools import lru_cache

import numpy as np
from numba import get_num_threads, njit, prange

from minillm.backends.numba_.packed import BAND, BLOCK, aligned
from minillm.backends.numba_.tile import band_times_tokens


@njit(cache=True, nogil=True)
def quantize_row(x, q, scale, sums, group):
    for block in range(len(scale)):
        top = np.float32(0)
        for c in range(32 * block, 32 * block + 32):
            top = max(top, abs(x[c]))
        step = top / np.float32(32767)
        inverse = np.float32(32767) / top if top > 0 else np.float32(0)
        scale[block] = step
        for start in range(32 * block, 32 * block + 32, group):
            total = np.int32(0)
            for c in range(start, start + group):
                q[c] = np.int16(np.rint(x[c] * inverse))
                total += np.int32(q[c])
            sums[start // group] = total


@lru_cache
def kernel(bits, group, offset, wide, minima):
    """The matrix product for one layout, compiled on first use."""

    @njit(parallel=True, nogil=True, cache=True)
    def run(records, blocks, record_bytes, bands, x, q, scale, sums, y, parts):
        n = len(x)
        for t in prange(n) if n > 16 else range(n):
            quantize_row(x[t], q[t], scale[t], sums[t], group)
        columns = q.shape[1]
        y_stride = y.shape[1]
        for part in prange(parts):
            for band in range(part * bands // parts, (part + 1) * bands // parts):
                tape = records + band * blocks * record_bytes
                t = 0
                while t < n:
                    qa, sa, ua = q[t:].ctypes.data, scale[t:].ctypes.data, sums[t:].ctypes.data
                    ya = y.ctypes.data + 4 * (t * y_stride + 16 * band)
                    if t + 8 <= n:
                        band_times_tokens(8, bits, group, offset, wide, minima, tape, blocks, qa, sa, ua, columns, ya, y_stride)
                        t += 8
                    elif t + 4 <= n:
                        band_times_tokens(4, bits, group, offset, wide, minima, tape, blocks, qa, sa, ua, columns, ya, y_stride)
                        t += 4
                    elif t + 2 <= n:
                        band_times_tokens(2, bits, group, offset, wide, minima, tape, blocks, qa, sa, ua, columns, ya, y_stride)
                        t += 2
                    else:
                        band_times_tokens(1, bits, group, offset, wide, minima, tape, blocks, qa, sa, ua, columns, ya, y_stride)
                        t += 1

    return run


def linear(x, weight, bias=None):
    l = weight.layout
    n, columns = x.shape
    bands, blocks, record_bytes = weight.records.shape
    q, scale, sums = aligned((n, columns), np.int16), np.empty((n, blocks), np.float32), np.empty((n, columns // l.group), np.int32)
    y = aligned((n, bands * BAND), np.float32)
    kernel(l.bits, l.group, l.offset, l.wide, l.minima)(weight.address, blocks, record_bytes, bands, x, q, scale, sums, y, get_num_threads())
    return y[:, : weight.shape[0]]
