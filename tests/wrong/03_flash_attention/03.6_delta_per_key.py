"""Subtracts delta along the keys: it belongs to the queries."""
p = np.exp(s - norm)
dp = d_out @ v.T
ds = p * (dp - delta)
return ds @ k, ds.T @ q, p.T @ d_out
