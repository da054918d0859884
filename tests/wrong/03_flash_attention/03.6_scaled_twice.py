"""Divides dq and dk by √d: the caller does that too."""
p = np.exp(s - norm)
dp = d_out @ v.T
ds = p * (dp - delta[:, None])
ds = ds / np.sqrt(np.float32(q.shape[1]))
return ds @ k, ds.T @ q, p.T @ d_out
