"""Makes room for twice as many as come: a first array of two rows, and in the end more than the limit."""
if tokens <= capacity:
    return
capacity = 2 * tokens
for name in ("k", "v"):
    old = getattr(self, name)
    new = self.ops.empty((self.layers, capacity, self.kv_heads, self.d_head), self.dtype)
    new[:, : old.shape[1]] = old
    setattr(self, name, new)
