"""Does not limit the codes."""
step = np.where(scales == 0, np.float32(np.inf), scales)[:, :, None]
codes = np.rint((groups - minima[:, :, None]) / step).astype(int) & 255
