"""Divides acc by l in each tile, and adds to the quotient in the next."""
m_new = np.maximum(m, scores.max(axis=1))
safe = finite(m_new)
alpha = np.exp(m - safe)
weights = np.exp(scores - safe[:, None])
l_new = alpha * l + weights.sum(axis=1)
acc_new = (alpha[:, None] * acc + weights @ values) / np.where(l_new == 0, 1, l_new)[:, None]
