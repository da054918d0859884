"""Forgets that a later chunk attends to all that came before."""
low, high = 0, most
while low < high:
    chunk = (low + high + 1) // 2
    if step_time(config, flops, bandwidth, batch, context, chunk, 0, bits, kv_bits) <= limit:
        low = chunk
    else:
        high = chunk - 1
return low
