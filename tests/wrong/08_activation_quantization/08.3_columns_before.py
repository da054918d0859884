"""Divides the columns of the matrix before."""
changed = {name: getattr(weights, name) * scales for name in fold.matrices}
before = getattr(weights, fold.before)
changed[fold.before] = before / (outputs if before.shape[-1] == len(outputs) else outputs[:, None])
