"""Counts the cache in 16 bits, whatever it has."""
left = memory * utilization - tokens * config.kv_bytes_per_token()
return max(0.0, 8 * left / config.parameters())
