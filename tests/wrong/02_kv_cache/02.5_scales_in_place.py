"""Scales the queries in place: the caller's queries are smaller afterwards."""
q /= np.sqrt(np.float32(d))
out = np.zeros((n_q, heads, d), np.float32)
for h in range(heads):
    g = h // (heads // kv_heads)
    scores = np.where(causal_mask(n_q, n_k), q[:, h] @ k[:, g].T, np.float32(-np.inf))
    out[:, h] = softmax(scores) @ v[:, g]
