"""Smooths the first matrix only."""
changed = {fold.matrices[0]: matrices[fold.matrices[0]] * scales}
changed[fold.before] = before / (outputs if before.ndim == 1 else outputs[:, None])
