"""Smooths the first matrix only."""
changed = {fold.matrices[0]: getattr(weights, fold.matrices[0]) * scales}
before = getattr(weights, fold.before)
changed[fold.before] = before / (outputs if before.ndim == 1 else outputs[:, None])
