"""Accumulates in int8."""
sums = x.codes @ w.codes.T
return (sums * x.scales.astype(np.float64) * w.scales.T).astype(np.float32)
