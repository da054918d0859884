"""Counts all parameters: norms, and a table of which a step looks up a row."""
return self.weight_bytes(bits_per_weight) + (shared + batch * (context - shared)) * self.kv_bytes_per_token(bytes_per_value)
