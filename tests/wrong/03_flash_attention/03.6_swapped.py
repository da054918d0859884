"""Exchanges the transposes of dq and dk."""
p = np.exp(s - norm)
dp = d_out @ v.T
ds = p * (dp - delta[:, None])
return ds.T @ k, ds @ q, p.T @ d_out
