"""Reads the matrices again for each sequence."""
weights = self.matrix_parameters() * bits_per_weight / 8
return batch * weights + (shared + batch * (context - shared)) * self.kv_bytes_per_token(bytes_per_value)
