"""Takes a target of -1 for the last token."""
p /= sums * p.dtype.type(counted)
p[np.arange(len(y)), y] -= p.dtype.type(1 / counted)
