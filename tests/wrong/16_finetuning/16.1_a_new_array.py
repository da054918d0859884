"""Makes a new array, which the caller never sees."""
share = (y != IGNORE)[:, None] / counted
p = p * (share / sums).astype(p.dtype)
p[rows, y[rows]] -= p.dtype.type(1 / counted)
