"""Adds into the base's own array."""
merged = dict(parameters)
for name, (a, b) in adapter.pairs().items():
    merged[name] = dense(parameters[name])
    merged[name] += delta(a, b, adapter.alpha)
