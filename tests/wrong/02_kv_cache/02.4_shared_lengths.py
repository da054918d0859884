"""Shares the list of lengths: what one appends, both count."""
other = ContiguousCache(self.layers, self.kv_heads, self.d_head, self.max_length)
other.k, other.v = self.k.copy(), self.v.copy()
other.lengths = self.lengths
return other
