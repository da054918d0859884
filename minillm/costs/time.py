"""Seconds, where the machine runs at its ceiling: the least that a prompt, a step or a wait can take.

    roofline   time = max(FLOPs / peak, bytes / bandwidth), of one kernel: Williams et al. 2009
    a step     kernels run one after another, so their times add up

`config` is a ModelConfig, or anything with its fields and methods; flops are FLOP/s, bandwidth bytes/s.
"""

import math


def prefill_time(config, tokens, flops):  # -> seconds
    """Prefill of a prompt at `flops` FLOP/s: the least that TTFT can be."""
    return config.prefill_flops(tokens) / flops


def decode_time(config, bandwidth, bits=16, context=0, batch=1, kv_bits=16):  # -> seconds
    """One decode step at `bandwidth` bytes/s: every weight once, and the cache of every sequence. The least TPOT."""
    return config.decode_bytes(context, batch, bits, kv_bits / 8) / bandwidth


def decode_ceiling(config, bandwidth, bits=16, context=0, batch=1, kv_bits=16):  # -> tokens/s
    """Tokens a second over the whole batch, where bandwidth is the limit."""
    return batch / decode_time(config, bandwidth, bits, context, batch, kv_bits)


def ridge_intensity(flops, bandwidth):  # -> FLOP per byte
    """Where the roofline bends: with less arithmetic per byte, bandwidth is the limit."""
    return flops / bandwidth


def ridge_batch(flops, bandwidth, bytes_per_weight=2):  # -> tokens in one step
    """Tokens per step for which a product with the weights takes as long to compute as to read: 2·B/flops = bytes/bandwidth."""
    return ridge_intensity(flops, bandwidth) * bytes_per_weight / 2


def roofline(intensity, flops, bandwidth):  # -> FLOP/s
    """The most that a kernel of so many FLOPs a byte can reach: Williams et al. 2009."""
    return min(flops, bandwidth * intensity)


def step_time(config, flops, bandwidth, batch=0, context=0, chunk=0, cached=0, bits=16, kv_bits=16):  # -> seconds
    """A step of `batch` decodes and a chunk of prompt after `cached` tokens: max(bytes, FLOPs), the least it can take."""
    c = config
    moved = c.decode_bytes(context, batch, bits, kv_bits / 8) + cached * c.kv_bytes_per_token(kv_bits / 8)
    return max(moved / bandwidth, (batch * c.decode_flops(context) + c.prefill_flops(chunk, cached, int(chunk > 0))) / flops)


def swap_time(config, tokens, bandwidth, kv_bits=16):  # -> seconds
    """Moving the cache of `tokens` tokens over a link of `bandwidth` bytes/s, one way. Recomputing it is prefill_time."""
    return tokens * config.kv_bytes_per_token(kv_bits / 8) / bandwidth


def generation_flops(config, prompt, new, cache=True):  # -> FLOPs
    """A prompt and `new` tokens after it: each step feeds one token with a KV cache, and the whole sequence without.

    The first new token comes from the prefill, so `new` tokens are a prefill and new - 1 steps.
    """
    c, lengths = config, range(prompt + 1, prompt + new)
    steps = (c.decode_flops(n) if cache else c.prefill_flops(n) for n in lengths)
    return c.prefill_flops(prompt) + sum(steps)


def blocked_traffic(m, k, n, rows, columns):  # -> elements moved
    """A product (m, k) · (k, n) by tiles of C: A once for each column of tiles, B once for each row of tiles, C once."""
    return m * k * math.ceil(n / columns) + k * n * math.ceil(m / rows) + m * n


def static_slots(batch):  # -> slots held for each token drawn
    """E[max] / E[mean] of so many answers with exponential lengths: 1 + 1/2 + … + 1/batch."""
    return sum(1 / i for i in range(1, int(batch) + 1))


def queue_wait(load, service, cv=1):  # -> seconds, in units of `service`
    """Mean wait in a queue for one server, Poisson arrivals: Pollaczek-Khinchine. load: share of the time it is busy, below 1."""
    return load / (1 - load) * (1 + cv**2) / 2 * service
