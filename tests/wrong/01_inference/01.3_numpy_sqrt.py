"""Divides by np.sqrt(d): a float64 scalar, which under NumPy 2 makes all that follows float64."""
scores = q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1])
scores = np.where(causal_mask(q.shape[-2], k.shape[-2]), scores, -np.inf)
return softmax(scores) @ v
