"""Takes one maximum for all rows: those far below it vanish."""
m_new = np.maximum(m, scores.max())
safe = finite(m_new)
alpha = np.exp(m - safe)
weights = np.exp(scores - safe[:, None])
l_new = alpha * l + weights.sum(axis=1)
acc_new = alpha[:, None] * acc + weights @ values
