"""Gives the cache its bits as bytes."""
left = memory * utilization - tokens * config.kv_bytes_per_token(kv_bits)
return max(0.0, 8 * left / config.parameters())
