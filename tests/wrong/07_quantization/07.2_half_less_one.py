"""Gives the largest magnitude half of the levels less one."""
if grid.symmetric:
    scales = as_half(np.abs(groups).max(axis=2) / np.float32(max(1, grid.top // 2)))
    minima = as_half(-(1 << grid.bits - 1) * scales)
else:
    lowest, highest = groups.min(axis=2), groups.max(axis=2)
    scales = as_half((highest - lowest) / np.float32(grid.top))
    minima = as_half(lowest)
