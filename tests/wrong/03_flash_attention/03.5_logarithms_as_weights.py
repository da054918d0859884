"""Weighs the parts by the logarithms themselves."""
top = finite(np.max(lses, axis=0))
total = np.exp(lses - top).sum(axis=0)
weights = np.where(np.isneginf(lses), 0, lses)
out = (weights[..., None] * outs).sum(axis=0) / np.where(weights.sum(axis=0) == 0, 1, weights.sum(axis=0))[..., None]
