"""Advances every layer's length with the first one's append."""
start = self.lengths[layer]
end = start + len(k)
self.reserve(end)
self.k[layer, start:end] = k
self.v[layer, start:end] = v
self.lengths = [end] * self.layers
