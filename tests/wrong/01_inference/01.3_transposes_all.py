"""Transposes every axis of the keys (.T): with leading axes the heads change places with the components."""
scores = q @ k.T / np.sqrt(np.float32(q.shape[-1]))
if q.shape[-2] > 1:
    scores = np.where(causal_mask(q.shape[-2], k.shape[-2]), scores, np.float32(-np.inf))
return softmax(scores) @ v
