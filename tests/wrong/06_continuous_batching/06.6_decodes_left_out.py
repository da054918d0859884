"""Asks for a step of the chunk alone: the decodes are in it too."""
low, high = 0, most
while low < high:
    chunk = (low + high + 1) // 2
    if step_time(config, flops, bandwidth, 0, 0, chunk, cached, bits, kv_bits) <= limit:
        low = chunk
    else:
        high = chunk - 1
return low
