"""Counts every parameter, also embeddings that are only looked up and norms."""
products = 2 * self.parameters()
return products + self.n_layers * 4 * self.n_heads * self.d_head * context
