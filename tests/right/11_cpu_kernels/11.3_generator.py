"""Hands the tiles over as a generator."""
def tile(i, j):
    height, width = slice(i, min(i + rows, m)), slice(j, min(j + columns, n))
    total = np.zeros((height.stop - i, width.stop - j), np.float32)
    for p in range(0, k, inner):
        depth = slice(p, min(p + inner, k))
        total += a[height, depth] @ b[depth, width]
    c[height, width] = total

each(tile, ((i, j) for i in range(0, m, rows) for j in range(0, n, columns)))
