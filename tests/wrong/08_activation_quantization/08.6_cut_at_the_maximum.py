"""Clips at the calibration's maximum, and rounds nothing."""
most = TOP * scales
wrong = np.square(checked(x) - np.clip(x, -most, most), dtype=np.float64)
clipped = np.abs(x) > TOP * scales
