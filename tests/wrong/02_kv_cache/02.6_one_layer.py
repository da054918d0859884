"""Counts a single layer."""
return 2 * self.n_kv_heads * self.d_head * bytes_per_value
