"""Uses one scale for all blocks."""
flat = blocks.reshape(1, -1)
scale = np.repeat(largest(flat) / np.float32(-levels), len(blocks), axis=0)
q = np.clip(np.floor(blocks * reciprocal(scale) + np.float32(levels + 0.5)), 0, 2 * levels - 1)
