"""Takes 1 off before the row is divided by its sum."""
share = (y != IGNORE)[:, None] / counted
p[rows, y[rows]] -= 1
p *= (share / sums).astype(p.dtype)
