"""Accumulates in float16."""
sums = (x.codes.astype(np.float16) @ w.codes.astype(np.float16).T).astype(np.float64)
return (sums * x.scales.astype(np.float64) * w.scales.T).astype(np.float32)
