"""Adds the minimum."""
step = np.where(scales == 0, np.float32(np.inf), scales)[:, :, None]
codes = np.clip(np.rint((groups + minima[:, :, None]) / step), 0, grid.top)
