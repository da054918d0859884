"""Uses the length of the whole cache, so layers overwrite or wait for each other."""
start = self.length
end = start + len(k)
self.reserve(end)
self.k[layer, start:end] = k
self.v[layer, start:end] = v
self.lengths[layer] = end
