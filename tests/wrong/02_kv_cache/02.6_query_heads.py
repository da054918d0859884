"""Counts query heads: right for multi-head attention only."""
return 2 * self.n_layers * self.n_heads * self.d_head * bytes_per_value
