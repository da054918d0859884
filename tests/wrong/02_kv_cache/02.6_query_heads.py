"""Counts query heads: right for multi-head attention only."""
weights = self.matrix_parameters() * bits_per_weight / 8
token = 2 * self.n_layers * self.n_heads * self.d_head * bytes_per_value
return weights + (shared + batch * (context - shared)) * token
