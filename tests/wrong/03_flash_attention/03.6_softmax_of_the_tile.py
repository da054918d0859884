"""Normalises P inside the tile, as if it held the whole row."""
top = finite(s.max(axis=1))[:, None]
p = np.exp(s - top)
p = p / np.maximum(p.sum(axis=1, keepdims=True), 1e-30)
dp = d_out @ v.T
ds = p * (dp - delta[:, None])
return ds @ k, ds.T @ q, p.T @ d_out
