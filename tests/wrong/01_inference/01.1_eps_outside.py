"""Adds eps after the root: small vectors come out too long."""
return x / (np.sqrt(np.mean(x * x, axis=-1, keepdims=True)) + eps) * weight
