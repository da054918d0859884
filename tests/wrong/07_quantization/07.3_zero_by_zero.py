"""Divides by a scale of 0."""
with np.errstate(all="ignore"):
    codes = np.clip(np.nan_to_num(np.rint((groups - minima[:, :, None]) / scales[:, :, None])), 0, grid.top)
