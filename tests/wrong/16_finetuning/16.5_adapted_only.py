"""Gives only the matrices that have an adapter."""
merged = {}
for name, (a, b) in adapter.pairs().items():
    merged[name] = dense(parameters[name]) + delta(a, b, adapter.alpha)
