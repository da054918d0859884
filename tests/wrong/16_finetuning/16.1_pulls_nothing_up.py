"""Leaves out the token that came."""
p *= ((y != IGNORE)[:, None] / counted / sums).astype(p.dtype)
