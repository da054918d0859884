"""Copies what it returns: correct, and twice the traffic."""
end = self.lengths[layer]
return self.k[layer, :end].copy(), self.v[layer, :end].copy()
