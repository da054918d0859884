"""Counts the keys and forgets the values."""
weights = self.matrix_parameters() * bits_per_weight / 8
token = self.n_layers * self.n_kv_heads * self.d_head * bytes_per_value
return weights + (shared + batch * (context - shared)) * token
