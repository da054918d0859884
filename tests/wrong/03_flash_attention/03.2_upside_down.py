"""Turns alpha around: exp(m' - m) grows what should shrink."""
m_new = np.maximum(m, scores.max(axis=1))
safe = finite(m_new)
alpha = np.exp(safe - finite(m))
weights = np.exp(scores - safe[:, None])
l_new = alpha * l + weights.sum(axis=1)
acc_new = alpha[:, None] * acc + weights @ values
