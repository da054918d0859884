"""Ignores the width of a value."""
return 2 * self.n_layers * self.n_kv_heads * self.d_head * 2
