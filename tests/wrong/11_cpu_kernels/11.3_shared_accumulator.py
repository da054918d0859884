"""Adds every tile into one accumulator that all cores share: a race."""
buffer = np.zeros((rows, columns), np.float32)

def tile(i, j):
    height, width = slice(i, min(i + rows, m)), slice(j, min(j + columns, n))
    total = buffer[: height.stop - i, : width.stop - j]
    total[:] = 0
    for p in range(0, k, inner):
        depth = slice(p, min(p + inner, k))
        total += a[height, depth] @ b[depth, width]
    c[height, width] = total

each(tile, [(i, j) for i in range(0, m, rows) for j in range(0, n, columns)])
