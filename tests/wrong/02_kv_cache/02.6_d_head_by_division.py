"""Divides d_model by the heads: many models have heads of another size."""
return 2 * self.n_layers * self.n_kv_heads * (self.d_model // self.n_heads) * bytes_per_value
