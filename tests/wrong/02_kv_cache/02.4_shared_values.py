"""Copies the keys and shares the values."""
other = ContiguousCache(self.layers, self.kv_heads, self.d_head, self.max_length)
other.k, other.v = self.k.copy(), self.v
other.lengths = list(self.lengths)
return other
