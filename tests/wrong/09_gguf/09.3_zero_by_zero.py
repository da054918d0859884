"""Divides zeros by a scale of zero."""
scale = largest(blocks) / np.float32(-levels)
q = np.minimum(np.floor(blocks / scale + np.float32(levels + 0.5)), 2 * levels - 1)
