"""Forgets the cache."""
left = memory * utilization
return max(0.0, 8 * left / config.parameters())
