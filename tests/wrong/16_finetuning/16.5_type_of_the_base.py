"""Goes back to the base's type: float16 rounds away what was learnt."""
merged = dict(parameters)
for name, (a, b) in adapter.pairs().items():
    base = dense(parameters[name])
    merged[name] = (base + delta(a, b, adapter.alpha)).astype(base.dtype)
