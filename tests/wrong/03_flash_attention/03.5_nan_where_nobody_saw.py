"""Divides 0 by 0 where no part saw a key."""
top = np.max(lses, axis=0)
weights = np.exp(lses - top)
total = weights.sum(axis=0)
out = (weights[..., None] * outs).sum(axis=0) / total[..., None]
