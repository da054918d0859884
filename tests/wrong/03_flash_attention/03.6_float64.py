"""Computes dS in float64: all three gradients come back twice as wide."""
p = np.exp(s - norm, dtype=float)
dp = d_out @ v.T
ds = p * (dp - delta[:, None])
return ds @ k, ds.T @ q, p.T @ d_out
