"""Gives cached values the width of weights."""
weights = self.matrix_parameters() * bits_per_weight / 8
return weights + (shared + batch * (context - shared)) * self.kv_bytes_per_token(bits_per_weight / 8)
