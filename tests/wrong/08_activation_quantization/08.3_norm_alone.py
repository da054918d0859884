"""Divides the norm, and leaves the weights."""
changed = {}
before = getattr(weights, fold.before)
changed[fold.before] = before / (outputs if before.ndim == 1 else outputs[:, None])
