"""Adds the token itself to the context, which counts it already."""
return 2 * self.matrix_parameters() + self.n_layers * 4 * self.n_heads * self.d_head * (context + 1)
