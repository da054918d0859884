"""Shrinks acc and leaves l as it was."""
m_new = np.maximum(m, scores.max(axis=1))
safe = finite(m_new)
alpha = np.exp(m - safe)
weights = np.exp(scores - safe[:, None])
l_new = l + weights.sum(axis=1)
acc_new = alpha[:, None] * acc + weights @ values
