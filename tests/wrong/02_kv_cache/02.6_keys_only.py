"""Counts the keys and forgets the values."""
return self.n_layers * self.n_kv_heads * self.d_head * bytes_per_value
