"""Forgets to bring heads and tokens back into order before flattening."""
group = heads // kv_heads
q = q.reshape(n_q, kv_heads, group, d).transpose(1, 2, 0, 3)
k = k.transpose(1, 0, 2)[:, None]
v = v.transpose(1, 0, 2)[:, None]
out = attention_head(q, k, v)
out = out.reshape(n_q, heads, d)
