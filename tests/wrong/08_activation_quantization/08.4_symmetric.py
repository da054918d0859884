"""Takes a symmetric grid."""
lowest, highest = -np.abs(keys).max(axis=0), np.abs(keys).max(axis=0)
scales, minima = as_half((highest - lowest) / top), as_half(lowest)
codes = np.clip(np.rint((keys - minima) / never_zero(scales)), 0, top)
