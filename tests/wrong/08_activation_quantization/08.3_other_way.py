"""Divides the weights and multiplies the norm."""
changed = {name: matrix / scales for name, matrix in matrices.items()}
changed[fold.before] = before * (outputs if before.ndim == 1 else outputs[:, None])
