"""Returns bytes."""
left = memory * utilization - tokens * config.kv_bytes_per_token(kv_bits / 8)
return max(0.0, left / config.parameters())
