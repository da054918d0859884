"""Divides the head's number by the number of KV heads: by the size of a group it must be."""
out = np.zeros((n_q, heads, d), np.float32)
for h in range(heads):
    g = h // kv_heads
    out[:, h] = attention_head(q[:, h], k[:, g], v[:, g])
