"""Scales by a NumPy number of 64 bits: y, and all that is computed from it, takes twice the bytes."""
scale = np.divide(alpha, len(a))
y = linear(x, weight) + scale * linear(linear(x, a), b)
