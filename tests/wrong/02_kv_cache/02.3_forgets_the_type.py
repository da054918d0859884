"""Makes the new arrays of float32, whatever the cache was made with."""
if tokens <= capacity:
    return
capacity = min(self.max_length, max(tokens, 2 * capacity, FIRST_CAPACITY))
for name in ("k", "v"):
    old = getattr(self, name)
    new = self.ops.empty((self.layers, capacity, self.kv_heads, self.d_head), np.float32)
    new[:, : old.shape[1]] = old
    setattr(self, name, new)
