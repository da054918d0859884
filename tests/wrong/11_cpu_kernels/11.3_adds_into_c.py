"""Shares out k as well and adds into C: read, add, write back, and another core did so in between."""
c[:] = np.zeros((m, n), np.float32)

def tile(i, j, p):
    height, width, depth = slice(i, min(i + rows, m)), slice(j, min(j + columns, n)), slice(p, min(p + inner, k))
    c[height, width] = c[height, width] + a[height, depth] @ b[depth, width]

each(tile, [(i, j, p) for i in range(0, m, rows) for j in range(0, n, columns) for p in range(0, k, inner)])
