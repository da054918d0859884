"""Counts from the top."""
step = np.where(scales == 0, np.float32(np.inf), scales)[:, :, None]
codes = grid.top - np.clip(np.rint((groups - minima[:, :, None]) / step), 0, grid.top)
