"""Runs every token of the context through the matrices, as if nothing were cached."""
return 2 * self.matrix_parameters() * context + self.n_layers * 4 * self.n_heads * self.d_head * context
