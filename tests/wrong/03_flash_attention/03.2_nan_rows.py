"""Subtracts -inf from -inf where a row sees nothing."""
m_new = np.maximum(m, scores.max(axis=1))
alpha = np.exp(m - m_new)
weights = np.exp(scores - m_new[:, None])
l_new = alpha * l + weights.sum(axis=1)
acc_new = alpha[:, None] * acc + weights @ values
