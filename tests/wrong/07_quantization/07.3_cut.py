"""Cuts off what is behind the point."""
step = np.where(scales == 0, np.float32(np.inf), scales)[:, :, None]
codes = np.clip(np.floor((groups - minima[:, :, None]) / step), 0, grid.top)
