"""Takes one maximum over the whole step, as if one kernel did everything."""
kv_bytes = config.kv_bytes_per_token(kv_bits / 8)
reading = (config.decode_bytes(0, 1, bits) + (batch * context + cached) * kv_bytes) / bandwidth
low, high = 0, most
while low < high:
    chunk = (low + high + 1) // 2
    work = config.product_flops(batch + chunk, batch + 1) + config.prefill_attention_flops(chunk, cached)
    if max(reading, work / flops) <= limit:
        low = chunk
    else:
        high = chunk - 1
return low
