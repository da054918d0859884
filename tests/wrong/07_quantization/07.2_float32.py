"""Leaves scale and minimum as they are."""
if grid.symmetric:
    scales = (2 * np.abs(groups).max(axis=2) / np.float32(grid.top))
    minima = (-(1 << grid.bits - 1) * scales)
else:
    lowest, highest = groups.min(axis=2), groups.max(axis=2)
    scales = ((highest - lowest) / np.float32(grid.top))
    minima = (lowest)
