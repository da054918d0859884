"""Lets the other side reach +levels, which 4 bits do not hold."""
scale = largest(blocks) / np.float32(-levels)
q = np.trunc(blocks * reciprocal(scale) + np.float32(levels + 0.5))
