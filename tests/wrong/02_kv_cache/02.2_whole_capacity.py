"""Returns everything reserved, filled or not."""
return self.k[layer], self.v[layer]
