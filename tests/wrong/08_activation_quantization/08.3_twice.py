"""Divides twice."""
changed = {name: matrix * scales for name, matrix in matrices.items()}
changed[fold.before] = before / np.square(outputs if before.ndim == 1 else outputs[:, None])
