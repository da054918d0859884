"""Averages the parts: right where all saw equally much."""
top = finite(np.max(lses, axis=0))
total = np.exp(lses - top).sum(axis=0)
out = outs.mean(axis=0)
