"""Stores signed integers where codes plus levels are wanted."""
scale = largest(blocks) / np.float32(-levels)
q = np.clip(np.rint(blocks * reciprocal(scale)), -levels, levels - 1).astype(np.int8)
