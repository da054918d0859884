"""Makes the new cache without its type: it becomes float32 when it grows."""
other = ContiguousCache(self.layers, self.kv_heads, self.d_head, self.max_length)
other.k, other.v = self.k.copy(), self.v.copy()
other.lengths = list(self.lengths)
return other
