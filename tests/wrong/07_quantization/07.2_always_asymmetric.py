"""Never asks for the kind of grid."""
lowest, highest = groups.min(axis=2), groups.max(axis=2)
scales = as_half((highest - lowest) / np.float32(grid.top))
minima = as_half(lowest)
