"""Subtracts lse as it is: -inf from -inf where a row saw nothing."""
p = np.exp(s - lse[:, None])
dp = d_out @ v.T
ds = p * (dp - delta[:, None])
return ds @ k, ds.T @ q, p.T @ d_out
