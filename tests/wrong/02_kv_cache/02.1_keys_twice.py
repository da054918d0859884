"""Stores the keys in both arrays."""
start = self.lengths[layer]
end = start + len(k)
self.reserve(end)
self.k[layer, start:end] = k
self.v[layer, start:end] = k
self.lengths[layer] = end
