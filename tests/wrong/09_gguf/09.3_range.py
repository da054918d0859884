"""Divides the range from minimum to maximum into steps, as the types with a minimum do."""
lowest = blocks.min(axis=1, keepdims=True)
scale = (blocks.max(axis=1, keepdims=True) - lowest) / np.float32(2 * levels - 1)
q = np.minimum(np.rint((blocks - lowest) * reciprocal(scale)), 2 * levels - 1)
