"""Puts the adapter in the place of the matrix."""
merged = dict(parameters)
for name, (a, b) in adapter.pairs().items():
    merged[name] = delta(a, b, adapter.alpha)
