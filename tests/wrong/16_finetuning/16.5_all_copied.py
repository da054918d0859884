"""Copies every weight."""
merged = {name: dense(weight).copy() for name, weight in parameters.items()}
for name, (a, b) in adapter.pairs().items():
    merged[name] = dense(parameters[name]) + delta(a, b, adapter.alpha)
