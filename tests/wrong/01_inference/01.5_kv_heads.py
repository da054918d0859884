"""Counts attention over the KV heads; every query head works."""
products = 2 * self.matrix_parameters()
return products + self.n_layers * 4 * self.n_kv_heads * self.d_head * context
