"""Uses -7 to 7 alone, as if both sides had equally many levels."""
scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(levels - 1)
q = np.clip(np.rint(blocks * reciprocal(scale)) + levels, 0, 2 * levels - 1)
