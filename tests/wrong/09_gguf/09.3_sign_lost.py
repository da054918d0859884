"""Loses the sign of the largest weight, so half of them would need a level that there is not."""
scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(levels)
q = np.clip(np.floor(blocks * reciprocal(scale) + np.float32(levels + 0.5)), 0, 2 * levels - 1)
