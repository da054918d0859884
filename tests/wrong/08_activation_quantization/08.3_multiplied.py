"""Multiplies what comes before as well."""
changed = {name: getattr(weights, name) * scales for name in fold.matrices}
before = getattr(weights, fold.before)
changed[fold.before] = before * (outputs if before.ndim == 1 else outputs[:, None])
