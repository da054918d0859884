"""Divides by the scales."""
sums = matmul(x.codes, w.codes)
return (sums / x.scales / w.scales.T).astype(np.float32)
