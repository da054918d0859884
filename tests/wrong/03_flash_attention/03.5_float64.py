"""Makes the weights in float64 for precision: the output is too."""
top = finite(np.max(lses, axis=0))
weights = np.exp(lses.astype(np.float64) - top)
total = weights.sum(axis=0)
out = (weights[..., None] * outs).sum(axis=0) / np.where(total == 0, 1, total)[..., None]
