"""Leaves the shared prefix out altogether: once it must be read."""
weights = self.matrix_parameters() * bits_per_weight / 8
return weights + batch * (context - shared) * self.kv_bytes_per_token(bytes_per_value)
