"""Fills the base's own dictionary."""
merged = parameters
for name, (a, b) in adapter.pairs().items():
    merged[name] = dense(parameters[name]) + delta(a, b, adapter.alpha)
