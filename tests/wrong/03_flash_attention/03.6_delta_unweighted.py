"""Subtracts delta without weighting it by P."""
p = np.exp(s - norm)
dp = d_out @ v.T
ds = p * dp - delta[:, None]
return ds @ k, ds.T @ q, p.T @ d_out
