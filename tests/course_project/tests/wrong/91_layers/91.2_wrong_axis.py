"""Normalises over the queries."""
weights = np.exp(s - s.max(axis=-1, keepdims=True))
weights /= weights.sum(axis=0, keepdims=True)
