"""Allows a code of 2^bits."""
step = np.where(scales == 0, np.float32(np.inf), scales)[:, :, None]
codes = np.clip(np.rint((groups - minima[:, :, None]) / step), 0, grid.top + 1)
