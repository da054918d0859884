"""Does not divide by n."""
share = (y != IGNORE)[:, None]
p *= (share / sums).astype(p.dtype)
p[rows, y[rows]] -= p.dtype.type(1)
