"""Counts whole tiles only: tail rows and columns are never written."""
def tile(i, j):
    total = np.zeros((rows, columns), np.float32)
    for p in range(0, k, inner):
        total += a[i : i + rows, p : p + inner] @ b[p : p + inner, j : j + columns]
    c[i : i + rows, j : j + columns] = total

each(tile, [(i * rows, j * columns) for i in range(m // rows) for j in range(n // columns)])
