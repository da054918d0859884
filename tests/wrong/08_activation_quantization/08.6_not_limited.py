"""Lets codes run beyond 127."""
wrong = np.square(checked(x) - np.rint(x / scales) * scales, dtype=np.float64)
clipped = np.abs(x) > TOP * scales
