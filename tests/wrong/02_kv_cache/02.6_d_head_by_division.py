"""Divides d_model by the heads: many models have heads of another size."""
weights = self.matrix_parameters() * bits_per_weight / 8
token = 2 * self.n_layers * self.n_kv_heads * (self.d_model // self.n_heads) * bytes_per_value
return weights + (shared + batch * (context - shared)) * token
