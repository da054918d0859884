"""Counts a multiply and an add as one FLOP."""
products = self.matrix_parameters()
return products + self.n_layers * 2 * self.n_heads * self.d_head * context
