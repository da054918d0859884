"""Runs the tiles itself, and does not ask `each`."""
for i in range(0, m, rows):
    for j in range(0, n, columns):
        height, width = slice(i, min(i + rows, m)), slice(j, min(j + columns, n))
        total = np.zeros((height.stop - i, width.stop - j), np.float32)
        for p in range(0, k, inner):
            depth = slice(p, min(p + inner, k))
            total += a[height, depth] @ b[depth, width]
        c[height, width] = total
