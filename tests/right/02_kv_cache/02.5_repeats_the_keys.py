"""Repeats keys and values for every query head, and loops."""
k, v = np.repeat(k, heads // kv_heads, axis=1), np.repeat(v, heads // kv_heads, axis=1)
out = np.stack([attention_head(q[:, h], k[:, h], v[:, h]) for h in range(heads)], axis=1)
