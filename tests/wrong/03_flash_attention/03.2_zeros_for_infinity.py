"""Replaces -inf by an array of np.zeros, which is float64: weights, sum and acc are widened in silence."""
m_new = np.maximum(m, scores.max(axis=-1))
safe = np.where(np.isneginf(m_new), np.zeros(m_new.shape), m_new)
alpha = np.exp(m - safe)
weights = np.exp(scores - safe[..., None])
l_new = alpha * l + weights.sum(axis=-1)
acc_new = alpha[..., None] * acc + weights @ values
