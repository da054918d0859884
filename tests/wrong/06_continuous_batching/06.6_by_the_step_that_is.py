"""Compares the time of the decodes with the limit, and takes the whole prompt where they keep it."""
alone = step_time(config, flops, bandwidth, batch, context, 0, cached, bits, kv_bits)
return most if alone <= limit else 0
