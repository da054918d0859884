"""Divides by all rows, ignored ones too."""
share = (y != IGNORE)[:, None] / len(targets)
p *= (share / sums).astype(p.dtype)
p[rows, y[rows]] -= p.dtype.type(1 / len(targets))
