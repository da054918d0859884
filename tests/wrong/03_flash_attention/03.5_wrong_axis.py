"""Divides the weights by their sum over the heads."""
top = finite(np.max(lses, axis=0))
weights = np.exp(lses - top)
total = weights.sum(axis=0)
shares = weights / np.where(weights.sum(axis=-1) == 0, 1, weights.sum(axis=-1))[..., None]
out = (shares[..., None] * outs).sum(axis=0)
