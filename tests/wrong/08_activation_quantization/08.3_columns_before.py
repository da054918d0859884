"""Divides the columns of the matrix before."""
changed = {name: matrix * scales for name, matrix in matrices.items()}
changed[fold.before] = before / (outputs if before.shape[-1] == len(outputs) else outputs[:, None])
