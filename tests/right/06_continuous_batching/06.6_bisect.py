"""Lets the library halve the range, by the time as a key."""
import bisect

return bisect.bisect_right(
    range(1, most + 1), limit, key=lambda c: step_time(config, flops, bandwidth, batch, context, c, cached, bits, kv_bits)
)
