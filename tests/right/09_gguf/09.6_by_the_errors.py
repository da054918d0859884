"""Computes the gain as the difference of two errors."""
size = (weight * q * q).sum(axis=0)
scale = np.where(size > 0, (weight * x * q).sum(axis=0) / np.where(size > 0, size, 1), 0)
gain = (weight * x * x).sum(axis=0) - (weight * np.square(x - scale * q)).sum(axis=0)
