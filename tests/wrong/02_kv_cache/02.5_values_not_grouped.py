"""Groups the keys and takes the values in reverse order."""
group = heads // kv_heads
q = q.reshape(n_q, kv_heads, group, d).transpose(1, 2, 0, 3)
k = k.transpose(1, 0, 2)[:, None]
v = v[:, ::-1].transpose(1, 0, 2)[:, None]
out = attention_head(q, k, v)
out = out.transpose(2, 0, 1, 3).reshape(n_q, heads, d)
