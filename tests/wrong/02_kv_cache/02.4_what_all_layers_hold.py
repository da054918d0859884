"""Copies the tokens that every layer holds: within a step the early layers hold more."""
other = ContiguousCache(self.layers, self.kv_heads, self.d_head, self.max_length, self.dtype)
for layer in range(self.layers):
    other.append(layer, self.k[layer, : self.length], self.v[layer, : self.length])
return other
