"""Does not look how long the prompt is."""
low, high = 0, 10**7
while low < high:
    chunk = (low + high + 1) // 2
    if step_time(config, flops, bandwidth, batch, context, chunk, cached, bits, kv_bits) <= limit:
        low = chunk
    else:
        high = chunk - 1
return low
