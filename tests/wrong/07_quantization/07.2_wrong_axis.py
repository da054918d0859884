"""Makes groups of rows."""
if grid.symmetric:
    scales = as_half(2 * np.abs(groups).max(axis=2) / np.float32(grid.top))
    minima = as_half(-(1 << grid.bits - 1) * scales)
else:
    lowest, highest = (np.broadcast_to(f(f(groups, axis=0), axis=-1), groups.shape[:2]) for f in (np.min, np.max))
    scales = as_half((highest - lowest) / np.float32(grid.top))
    minima = as_half(lowest)
