"""Skips the tile for all rows as soon as one row sees nothing of it."""
m_new, l_new, acc_new = m, l, acc
if not np.isneginf(scores.max(axis=1)).any():
    m_new = np.maximum(m, scores.max(axis=1))
    alpha = np.exp(m - m_new)
    weights = np.exp(scores - m_new[:, None])
    l_new = alpha * l + weights.sum(axis=1)
    acc_new = alpha[:, None] * acc + weights @ values
