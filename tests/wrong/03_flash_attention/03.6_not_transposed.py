"""Multiplies by dS and P where their transposes belong."""
p = np.exp(s - norm)
dp = d_out @ v.T
ds = p * (dp - delta[:, None])
return ds @ k, ds @ q, p @ d_out
