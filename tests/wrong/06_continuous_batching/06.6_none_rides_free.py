"""Charges each token alike, also those for which reading the weights takes longer anyway."""
left = limit - step_time(config, flops, bandwidth, batch, context, 0, cached, bits, kv_bits)
per_token = config.prefill_flops(most) / flops / most if most else 1
return min(most, max(0, int(left / per_token)))
