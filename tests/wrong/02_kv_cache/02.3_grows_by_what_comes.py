"""Makes room for exactly what is asked for: each token copies all before it."""
if tokens <= capacity:
    return
capacity = max(tokens, FIRST_CAPACITY)
for name in ("k", "v"):
    old = getattr(self, name)
    new = self.ops.empty((self.layers, capacity, self.kv_heads, self.d_head), self.dtype)
    new[:, : old.shape[1]] = old
    setattr(self, name, new)
