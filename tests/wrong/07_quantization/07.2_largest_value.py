"""Takes the largest value for the largest magnitude."""
if grid.symmetric:
    scales = as_half(2 * groups.max(axis=2) / np.float32(grid.top))
    minima = as_half(-(1 << grid.bits - 1) * scales)
else:
    lowest, highest = groups.min(axis=2), groups.max(axis=2)
    scales = as_half((highest - lowest) / np.float32(grid.top))
    minima = as_half(lowest)
