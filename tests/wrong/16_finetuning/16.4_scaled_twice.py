"""Scales both thin products."""
scale = alpha / len(a)
low = scale * (x @ a.T)
y = x @ weight.T + scale * (low @ b.T)
