"""Returns the sum of codes."""
return matmul(x.codes, w.codes).astype(np.float32)
