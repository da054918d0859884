"""Lets codes wrap around."""
step = np.where(scales == 0, np.float32(np.inf), scales)[:, :, None]
codes = np.rint((groups - minima[:, :, None]) / step).astype(int) % (grid.top + 1)
