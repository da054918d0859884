"""Reads one cache for the whole batch, as if sequences shared it like the weights."""
weights = self.matrix_parameters() * bits_per_weight / 8
return weights + context * self.kv_bytes_per_token(bytes_per_value)
