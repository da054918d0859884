"""Adds to what may be packed."""
merged = dict(parameters)
for name, (a, b) in adapter.pairs().items():
    merged[name] = parameters[name] + delta(a, b, adapter.alpha)
