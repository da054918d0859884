"""Reads only what every layer holds, so the newest token cannot see itself."""
end = self.length
return self.k[layer, :end], self.v[layer, :end]
