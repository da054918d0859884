"""Divides the norm, and leaves the weights."""
changed = {}
changed[fold.before] = before / (outputs if before.ndim == 1 else outputs[:, None])
