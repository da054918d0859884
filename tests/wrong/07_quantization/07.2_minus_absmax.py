"""Lets the symmetric grid begin at -absmax, so that no level is zero."""
if grid.symmetric:
    scales = as_half(2 * np.abs(groups).max(axis=2) / np.float32(grid.top))
    minima = as_half(-np.abs(groups).max(axis=2))
else:
    lowest, highest = groups.min(axis=2), groups.max(axis=2)
    scales = as_half((highest - lowest) / np.float32(grid.top))
    minima = as_half(lowest)
