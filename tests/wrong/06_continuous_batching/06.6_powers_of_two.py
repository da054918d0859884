"""Doubles as long as it fits, and stops there."""
chunk = 0
while max(1, 2 * chunk) <= most and step_time(
    config, flops, bandwidth, batch, context, max(1, 2 * chunk), cached, bits, kv_bits
) <= limit:
    chunk = max(1, 2 * chunk)
return chunk
