"""Uses all of the memory."""
left = memory - tokens * config.kv_bytes_per_token(kv_bits / 8)
return max(0.0, 8 * left / config.parameters())
