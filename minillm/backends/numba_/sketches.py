"""Three ideas of the kernels in a few lines: blocks that fit a cache, their order, and a norm that is never written down.

`blocked_matmul` is why a matrix product need not wait for memory. Three loops over tiles; a tile of A and a tile of B are
read, multiplied, forgotten; the tile of C stays in registers until it is complete and is stored once. What is read shrinks
with the size of the tile of C: A once for each column of tiles, B once for each row of tiles.

`tile_order` is why the order of tiles matters. A tile needs a *panel* of A, its rows, and a panel of B, its columns. Where a
panel is still in the cache it need not come from memory again, and which panels are there depends on the tiles just done.
`panels_read` counts; `sharing_panels(room)` is an `each` for blocked_matmul. The products are the same, the bytes are not.
Triton's matrix product does so too ("grouped ordering", for the L2 cache of a GPU).

`norm_matvec` is why fusing pays. y = W · rms_norm(x) seems to need all of x before the first product, because the norm
divides by the length of the whole row. But a number that divides everything can wait: multiply with what there is, sum the
squares on the way, divide at the end. x is read once and the normed row exists 32 numbers at a time.

The compiled kernels (floats.py, tile.py, layer.py) do the same with registers in place of NumPy's temporaries.
Goto and van de Geijn 2008, "Anatomy of high-performance matrix multiplication".
"""

from collections import OrderedDict

import numpy as np


def one_after_another(work, tiles):
    """Call work(*tile) for each tile. A backend would share them out among the cores."""
    for tile in tiles:
        work(*tile)


def blocked_matmul(a, b, c, block, each=one_after_another):  # (m, k), (k, n), (m, n), (rows, inner, columns)
    """C = A · B by tiles of C, shared among cores that do not wait for each other.

    block: rows of a tile of A and C, inner (columns of A's and rows of B's tile), columns of a tile of B and C; the last
    tile of a side is smaller where they do not divide it. A and B are read by tiles of at most that size. c is only
    written, each element once. each(work, tiles) calls work(i, j) for every tile, in any order and several at a time: it is
    called once, with all tiles.
    """
    (m, k), n = a.shape, b.shape[1]
    rows, inner, columns = block

    # BEGIN SOLUTION ex=11.3
    def tile(i, j):
        height, width = slice(i, min(i + rows, m)), slice(j, min(j + columns, n))
        total = np.zeros((height.stop - i, width.stop - j), np.float32)  # its own: no other core sees it
        for p in range(0, k, inner):
            depth = slice(p, min(p + inner, k))
            total += a[height, depth] @ b[depth, width]
        c[height, width] = total

    each(tile, [(i, j) for i in range(0, m, rows) for j in range(0, n, columns)])
    # END SOLUTION


def tile_order(rows, columns, room):  # tiles of C down and across, panels that the cache holds (3 or more) -> [(i, j)]
    """Order the tiles of C so that few panels come from memory: each (i, j), 0 ≤ i < rows and 0 ≤ j < columns, once.

    Tile (i, j) uses panel i of A, then panel j of B; all panels are of one size. The cache holds `room` of them, of A and B
    together. One that is not there comes from memory, and takes the place of the one not used for longest (LRU).

    Row by row, A is read once, but each row reads all of B again, where a row has more panels of B than the cache has room. Let a
    panel of B serve several rows while it is there: as many as possible, with A still read only once. panels_read tells how
    many are one too many.
    """
    # BEGIN SOLUTION ex=11.2
    group = room - 2  # of A's panels; besides them the B in use, and the one before, which is the oldest only when the next comes
    order = []
    for first in range(0, rows, group):
        for j in range(columns):
            order += [(i, j) for i in range(first, min(first + group, rows))]
    # END SOLUTION
    return order


def panels_read(order, room):  # [(i, j)], panels -> panels that come from memory
    """Count the panels of A and B that come from memory when tiles are done in this order, with an LRU cache of `room` panels."""
    cache, read = OrderedDict(), 0
    for i, j in order:
        for panel in (("A", i), ("B", j)):
            if panel not in cache:
                read += 1
                if len(cache) == room:
                    cache.popitem(last=False)
            cache[panel] = True
            cache.move_to_end(panel)
    return read


def sharing_panels(room):  # -> each(work, tiles)
    """Make an `each` for blocked_matmul that goes through the tiles in tile_order."""

    def each(work, tiles):
        down, across = (sorted({tile[side] for tile in tiles}) for side in (0, 1))
        one_after_another(work, [(down[i], across[j]) for i, j in tile_order(len(down), len(across), room)])

    return each


def norm_matvec(x, weight, eps, codes, scales, minima):  # (d,), (d,), (rows, d) uint8, (rows, d/32) twice -> (rows,)
    """W · rms_norm(x) in one pass over x, with 4-bit W and integer dot products.

    W[r, c] = scales[r, c // 32] · codes[r, c] - minima[r, c // 32], codes from 0 to 15. Block by block of 32 columns,
    each taken once, x · weight is rounded to 16 bits (the largest size of the block becomes 32,767; a block of zeros stays
    zeros), multiplied with the codes in 32-bit integers, and scaled. What RMSNorm divides by (layers.rms_norm) is known at
    the end.
    """
    y, squares = np.zeros(len(codes), np.float32), np.float32(0)
    # BEGIN SOLUTION ex=11.4
    for b in range(len(x) // 32):
        part = slice(32 * b, 32 * b + 32)
        x_part = x[part]
        squares += x_part @ x_part
        h = x_part * weight[part]
        step = max(np.abs(h).max() / np.float32(32767), np.float32(1e-38))
        q = np.rint(h / step).astype(np.int32)  # a sum of 32 products, each up to 15 · 32,767, needs 25 bits with its sign
        y += step * (scales[:, b] * (codes[:, part] @ q) - minima[:, b] * q.sum())
    y /= np.sqrt(squares / np.float32(len(x)) + np.float32(eps))
    # END SOLUTION
    return y
