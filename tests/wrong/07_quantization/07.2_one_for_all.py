"""Makes one scale for the matrix."""
if grid.symmetric:
    scales = as_half(2 * np.abs(groups).max(axis=2) / np.float32(grid.top))
    minima = as_half(-(1 << grid.bits - 1) * scales)
else:
    lowest, highest = groups.min(axis=2), groups.max(axis=2)
    scales = as_half(np.full_like(lowest, (highest - lowest).max()) / np.float32(grid.top))
    minima = as_half(lowest)
