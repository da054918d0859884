"""Makes room for the whole context at once: nothing is ever copied, and most of it stands empty."""
if tokens <= capacity:
    return
capacity = self.max_length
for name in ("k", "v"):
    old = getattr(self, name)
    new = self.ops.empty((self.layers, capacity, self.kv_heads, self.d_head), self.dtype)
    new[:, : old.shape[1]] = old
    setattr(self, name, new)
