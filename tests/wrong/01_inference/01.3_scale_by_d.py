"""Divides the scores by d, not by its root."""
scores = q @ np.swapaxes(k, -1, -2) / np.float32(q.shape[-1])
if q.shape[-2] > 1:
    scores = np.where(causal_mask(q.shape[-2], k.shape[-2]), scores, np.float32(-np.inf))
return softmax(scores) @ v
