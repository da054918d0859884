"""Divides by a scale of 0."""
lowest, highest = keys.min(axis=0), keys.max(axis=0)
scales, minima = as_half((highest - lowest) / top), as_half(lowest)
codes = np.clip(np.rint((keys - minima) / scales), 0, top)
