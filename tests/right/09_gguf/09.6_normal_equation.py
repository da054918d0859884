"""Writes the sums out."""
size = (weight * q * q).sum(axis=0)
scale = np.where(size > 0, (weight * x * q).sum(axis=0) / np.where(size > 0, size, 1), 0)
