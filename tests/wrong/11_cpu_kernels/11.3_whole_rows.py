"""Reads all of k at once: right, and too large for the cache."""
def tile(i, j):
    height, width = slice(i, min(i + rows, m)), slice(j, min(j + columns, n))
    c[height, width] = a[height, 0:k] @ b[0:k, width]

each(tile, [(i, j) for i in range(0, m, rows) for j in range(0, n, columns)])
