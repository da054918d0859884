"""Lets every query head read KV head 0."""
q = q.transpose(1, 0, 2)
out = attention_head(q, k[None, :, 0], v[None, :, 0])
out = out.transpose(1, 0, 2)
