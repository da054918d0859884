"""Subtracts the mean first: that is LayerNorm."""
centred = x - np.mean(x, axis=-1, keepdims=True)
return centred / np.sqrt(np.mean(centred * centred, axis=-1, keepdims=True) + eps) * weight
