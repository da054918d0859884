"""Counts the matrices without the embedding."""
left = memory * utilization - tokens * config.kv_bytes_per_token(kv_bits / 8)
return max(0.0, 8 * left / config.matrix_parameters())
