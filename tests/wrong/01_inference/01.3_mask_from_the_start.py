"""Aligns the triangle with the first keys, as if nothing were cached."""
scores = q @ np.swapaxes(k, -1, -2) / np.sqrt(np.float32(q.shape[-1]))
if q.shape[-2] > 1:
    scores = np.where(np.tril(np.ones((q.shape[-2], k.shape[-2]), bool)), scores, np.float32(-np.inf))
return softmax(scores) @ v
