"""Deals query heads out like cards (h modulo kv_heads) instead of in blocks."""
group = heads // kv_heads
q = q.reshape(n_q, group, kv_heads, d).transpose(2, 1, 0, 3)
out = attention_head(q, k.transpose(1, 0, 2)[:, None], v.transpose(1, 0, 2)[:, None])
out = out.transpose(2, 1, 0, 3).reshape(n_q, heads, d)
