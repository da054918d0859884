"""Multiplies the rows of square matrices."""
changed = {name: matrices[name] * (scales[:, None] if len(matrices[name]) == len(scales) else scales)
           for name in fold.matrices}
changed[fold.before] = before / (outputs if before.ndim == 1 else outputs[:, None])
