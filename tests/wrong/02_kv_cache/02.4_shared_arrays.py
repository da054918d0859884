"""Shares the arrays: both write to the same slots."""
other = ContiguousCache(self.layers, self.kv_heads, self.d_head, self.max_length)
other.k, other.v = self.k, self.v
other.lengths = list(self.lengths)
return other
