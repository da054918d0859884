"""Scales by α, not by α/r."""
merged = dict(parameters)
for name, (a, b) in adapter.pairs().items():
    merged[name] = dense(parameters[name]) + adapter.alpha * (b @ a)
