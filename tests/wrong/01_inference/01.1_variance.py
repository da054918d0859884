"""Divides by the standard deviation: np.std subtracts the mean."""
return x / np.sqrt(x.var(axis=-1, keepdims=True) + np.float32(eps)) * weight
