"""Writes without making room."""
start = self.lengths[layer]
end = start + len(k)
self.k[layer, start:end] = k
self.v[layer, start:end] = v
self.lengths[layer] = end
