"""Takes the share of what the cache leaves."""
left = (memory - tokens * config.kv_bytes_per_token(kv_bits / 8)) * utilization
return max(0.0, 8 * left / config.parameters())
