"""Divides the caller's queries in place."""
q /= np.sqrt(np.float32(q.shape[-1]))
scores = q @ np.swapaxes(k, -1, -2)
scores = np.where(causal_mask(q.shape[-2], k.shape[-2]), scores, np.float32(-np.inf))
return softmax(scores) @ v
