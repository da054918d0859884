"""Forgets the scale."""
merged = dict(parameters)
for name, (a, b) in adapter.pairs().items():
    merged[name] = dense(parameters[name]) + b @ a
