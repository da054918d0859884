"""Copies what all layers hold: a layer that is ahead loses its newest token."""
if tokens <= capacity:
    return
capacity = min(self.max_length, max(tokens, 2 * capacity, FIRST_CAPACITY))
for name in ("k", "v"):
    old = getattr(self, name)
    new = np.zeros((self.layers, capacity, self.kv_heads, self.d_head), self.dtype)
    new[:, : self.length] = old[:, : self.length]
    setattr(self, name, new)
