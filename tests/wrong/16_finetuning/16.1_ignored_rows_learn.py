"""Gives rows to be ignored the gradient p / n."""
share = 1 / counted
p *= (share / sums).astype(p.dtype)
p[rows, y[rows]] -= p.dtype.type(1 / counted)
