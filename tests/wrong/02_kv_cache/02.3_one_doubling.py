"""Doubles once, also for a prompt that is longer than that."""
if tokens <= capacity:
    return
capacity = min(self.max_length, max(2 * capacity, FIRST_CAPACITY))
for name in ("k", "v"):
    old = getattr(self, name)
    new = self.ops.empty((self.layers, capacity, self.kv_heads, self.d_head), self.dtype)
    new[:, : old.shape[1]] = old
    setattr(self, name, new)
