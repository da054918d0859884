"""Multiplies the rows of square matrices."""
changed = {name: getattr(weights, name) * (scales[:, None] if len(getattr(weights, name)) == len(scales) else scales)
           for name in fold.matrices}
before = getattr(weights, fold.before)
changed[fold.before] = before / (outputs if before.ndim == 1 else outputs[:, None])
