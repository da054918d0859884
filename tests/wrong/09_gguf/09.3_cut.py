"""Cuts the quotient where it should be rounded."""
scale = largest(blocks) / np.float32(-levels)
q = np.trunc(blocks * reciprocal(scale) + np.float32(levels))
q = np.minimum(q, 2 * levels - 1)
