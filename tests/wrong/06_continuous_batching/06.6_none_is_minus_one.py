"""Gives -1 where nothing fits."""
low, high = -1, most
while low < high:
    chunk = (low + high + 1) // 2
    if step_time(config, flops, bandwidth, batch, context, chunk, cached, bits, kv_bits) <= limit:
        low = chunk
    else:
        high = chunk - 1
return low
