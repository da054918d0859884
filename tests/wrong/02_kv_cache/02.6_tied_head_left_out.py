"""Leaves the head out where it is tied, though a step reads the whole table."""
weights = self.matrix_parameters() * bits_per_weight / 8
head = self.vocab_size * self.d_model * bits_per_weight / 8 if self.tied else 0
return weights - head + (shared + batch * (context - shared)) * self.kv_bytes_per_token(bytes_per_value)
