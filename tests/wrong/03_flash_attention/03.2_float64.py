"""Accumulates in float64, to be exact: acc takes twice the room of a tile, and the next product is of float64."""
m_new = np.maximum(m, scores.max(axis=-1))
safe = finite(m_new)
alpha = np.exp(m - safe)
weights = np.exp(scores - safe[..., None])
l_new = alpha * l + weights.sum(axis=-1)
acc_new = alpha[..., None] * acc.astype(float) + weights @ values
