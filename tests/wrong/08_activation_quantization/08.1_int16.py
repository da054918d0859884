"""Accumulates in int16."""
sums = x.codes.astype(np.int16) @ w.codes.astype(np.int16).T
return (sums * x.scales.astype(np.float64) * w.scales.T).astype(np.float32)
