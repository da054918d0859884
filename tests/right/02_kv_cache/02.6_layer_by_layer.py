"""Counts from the shape itself, layer by layer, in bits of weights and values of the cache."""
products = 2 * self.d_model * self.d_head * (self.n_heads + self.n_kv_heads) + 3 * self.d_model * self.d_ff
weights = self.n_layers * products + self.d_model * self.vocab_size
tokens = batch * context - (batch - 1) * shared
values = self.n_layers * self.n_kv_heads * self.d_head * 2 * tokens
return (weights * bits_per_weight + values * bytes_per_value * 8) / 8
