"""Makes dv of dS: the values are weighted by P."""
p = np.exp(s - norm)
dp = d_out @ v.T
ds = p * (dp - delta[:, None])
return ds @ k, ds.T @ q, ds.T @ d_out
