"""Does not look at what is shared."""
weights = self.matrix_parameters() * bits_per_weight / 8
return weights + batch * context * self.kv_bytes_per_token(bytes_per_value)
