"""Takes exp of the scores without subtracting the maximum."""
scores = q @ np.swapaxes(k, -1, -2) / np.sqrt(np.float32(q.shape[-1]))
if q.shape[-2] > 1:
    scores = np.where(causal_mask(q.shape[-2], k.shape[-2]), scores, np.float32(-np.inf))
weights = np.exp(scores)
return weights / weights.sum(axis=-1, keepdims=True) @ v
