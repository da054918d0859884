"""Makes the new cache without its backend: the arrays with which it grows are NumPy's, wherever the others lie."""
other = ContiguousCache(self.layers, self.kv_heads, self.d_head, self.max_length, self.dtype)
other.k, other.v = self.k.copy(), self.v.copy()
other.lengths = list(self.lengths)
return other
