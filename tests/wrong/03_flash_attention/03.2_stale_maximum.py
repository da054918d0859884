"""Takes the new weights under the old maximum."""
m_new = np.maximum(m, scores.max(axis=1))
alpha = np.exp(m - finite(m_new))
weights = np.exp(scores - finite(m)[:, None])
l_new = alpha * l + weights.sum(axis=1)
acc_new = alpha[:, None] * acc + weights @ values
