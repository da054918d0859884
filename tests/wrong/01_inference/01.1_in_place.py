"""Divides the caller's array in place."""
x /= np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)
return x * weight
