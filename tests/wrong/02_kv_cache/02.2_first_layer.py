"""Returns layer 0 whichever is asked for."""
end = self.lengths[layer]
return self.k[0, :end], self.v[0, :end]
