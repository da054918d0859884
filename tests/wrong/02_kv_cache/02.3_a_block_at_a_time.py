"""Grows by 64 tokens at a time: fewer copies, and still quadratic."""
if tokens <= capacity:
    return
capacity = min(self.max_length, -(-tokens // FIRST_CAPACITY) * FIRST_CAPACITY)
for name in ("k", "v"):
    old = getattr(self, name)
    new = self.ops.empty((self.layers, capacity, self.kv_heads, self.d_head), self.dtype)
    new[:, : old.shape[1]] = old
    setattr(self, name, new)
