"""Takes the mean of x / q, in which small q count as much as large ones."""
used = q != 0
quotients = np.divide(x, q, out=np.zeros_like(x), where=used)
scale = quotients.sum(axis=0) / np.maximum(used.sum(axis=0), 1)
