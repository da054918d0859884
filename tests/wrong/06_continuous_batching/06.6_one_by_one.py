"""Tries one size after the other: a server that does so before each step does little else."""
chunk = 0
while chunk < most and step_time(config, flops, bandwidth, batch, context, chunk + 1, cached, bits, kv_bits) <= limit:
    chunk += 1
return chunk
