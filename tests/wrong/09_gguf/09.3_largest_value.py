"""Makes the scale of the largest value, not of the largest magnitude."""
scale = blocks.max(axis=1, keepdims=True) / np.float32(-levels)
q = np.clip(np.floor(blocks * reciprocal(scale) + np.float32(levels + 0.5)), 0, 2 * levels - 1)
