"""Makes new arrays and copies nothing."""
if tokens <= capacity:
    return
capacity = min(self.max_length, max(tokens, 2 * capacity, FIRST_CAPACITY))
self.k, self.v = (np.zeros((self.layers, capacity, self.kv_heads, self.d_head), self.dtype) for _ in "kv")
