"""Gives negative bits where the cache is too large."""
left = memory * utilization - tokens * config.kv_bytes_per_token(kv_bits / 8)
return 8 * left / config.parameters()
