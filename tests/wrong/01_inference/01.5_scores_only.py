"""Counts the scores but not the average of the values."""
products = 2 * self.matrix_parameters()
return products + self.n_layers * 2 * self.n_heads * self.d_head * context
