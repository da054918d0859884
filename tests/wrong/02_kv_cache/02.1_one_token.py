"""Counts one token however many came."""
start = self.lengths[layer]
end = start + len(k)
self.reserve(end)
self.k[layer, start:end] = k
self.v[layer, start:end] = v
self.lengths[layer] = start + 1
