"""Makes the arrays longer by the tokens that come: each one copies all before it."""
start = self.lengths[layer]
end = start + len(k)
if end > self.max_length:
    self.reserve(end)
if end > self.k.shape[1]:
    more = np.empty((self.layers, end - self.k.shape[1], self.kv_heads, self.d_head), self.dtype)
    self.k, self.v = np.concatenate([self.k, more], axis=1), np.concatenate([self.v, more], axis=1)
self.k[layer, start:end] = k
self.v[layer, start:end] = v
self.lengths[layer] = end
