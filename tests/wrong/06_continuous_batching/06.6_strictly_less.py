"""Refuses a step that takes just the limit."""
low, high = 0, most
while low < high:
    chunk = (low + high + 1) // 2
    if step_time(config, flops, bandwidth, batch, context, chunk, cached, bits, kv_bits) < limit:
        low = chunk
    else:
        high = chunk - 1
return low
