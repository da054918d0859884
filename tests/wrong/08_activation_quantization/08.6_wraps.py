"""Lets codes wrap in a byte."""
codes = np.rint(x / scales).astype(np.int64).astype(np.int8)
wrong = np.square(checked(x) - codes * scales, dtype=np.float64)
clipped = np.abs(x) > TOP * scales
