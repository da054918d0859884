"""Adds the weighted parts and does not divide by the weights."""
top = finite(np.max(lses, axis=0))
weights = np.exp(lses - top)
total = weights.sum(axis=0)
out = (weights[..., None] * outs).sum(axis=0)
