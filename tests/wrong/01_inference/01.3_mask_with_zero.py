"""Masks with a score of 0, which still takes a share of the weight."""
scores = q @ np.swapaxes(k, -1, -2) / np.sqrt(np.float32(q.shape[-1]))
if q.shape[-2] > 1:
    scores = np.where(causal_mask(q.shape[-2], k.shape[-2]), scores, np.float32(0))
return softmax(scores) @ v
