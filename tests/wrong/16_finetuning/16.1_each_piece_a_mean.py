"""Divides each piece of rows by its own count."""
n = max(1, len(rows))
share = (y != IGNORE)[:, None] / n
p *= (share / sums).astype(p.dtype)
p[rows, y[rows]] -= p.dtype.type(1 / n)
