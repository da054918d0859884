"""Seconds, where the machine runs at its ceiling: the least that a prompt, a step or a wait can take.

    roofline   time = max(FLOPs / peak, bytes / bandwidth), of one kernel: Williams et al. 2009
    a step     kernels that run one after another: the sum of their times, each with its own max. What one leaves idle, the other
               does not use, unless a kernel computes both at once (POD-attention: Kamath et al. 2024)

`config` is a ModelConfig, or anything with its fields and methods; flops are FLOP/s, bandwidth bytes/s.
"""

import math
from typing import Any


def prefill_time(config: Any, tokens: int, flops: float) -> float:  # -> seconds
    """Compute the time of a prefill at `flops` FLOP/s: a lower bound of TTFT."""
    return config.prefill_flops(tokens) / flops


def decode_time(  # -> seconds
    config: Any, bandwidth: float, bits: float = 16, context: int = 0, batch: int = 1, kv_bits: float = 16
) -> float:
    """Compute the time of a decode step at `bandwidth` bytes/s: each weight once, each sequence's cache. A bound of TPOT."""
    return config.decode_bytes(context, batch, bits, kv_bits / 8) / bandwidth


def decode_ceiling(  # -> tokens/s
    config: Any, bandwidth: float, bits: float = 16, context: int = 0, batch: int = 1, kv_bits: float = 16
) -> float:
    """Compute the highest tokens/s over the whole batch, where bandwidth is the limit."""
    return batch / decode_time(config, bandwidth, bits, context, batch, kv_bits)


def ridge_intensity(flops: float, bandwidth: float) -> float:  # -> FLOP per byte
    """Compute the ridge point of the roofline: with less arithmetic per byte, bandwidth is the limit."""
    return flops / bandwidth


def ridge_batch(flops: float, bandwidth: float, bytes_per_weight: float = 2) -> float:  # -> tokens in one step
    """Compute the tokens per step at which a product with the weights turns compute-bound: 2·B/flops = bytes/bandwidth."""
    return ridge_intensity(flops, bandwidth) * bytes_per_weight / 2


def roofline(intensity: float, flops: float, bandwidth: float) -> float:  # -> FLOP/s
    """Compute the highest FLOP/s of a kernel of so many FLOPs a byte: Williams et al. 2009."""
    return min(flops, bandwidth * intensity)


def step_time(  # -> seconds
    config: Any, flops: float, bandwidth: float, batch: int = 0, context: int = 0, chunk: int = 0, cached: int = 0,
    bits: float = 16, kv_bits: float = 16
) -> float:
    """Compute the least time of a step of `batch` decodes and a chunk of prompt after `cached` tokens: a sum over kernels.

    Products with weights, of all tokens together: the larger of reading the weights and of their FLOPs. Attention of the decodes:
    reading their caches. Attention of the chunk: the larger of its FLOPs and of reading what is cached.
    """
    c, kv_bytes = config, config.kv_bytes_per_token(kv_bits / 8)
    products = max(c.decode_bytes(0, 1, bits) / bandwidth, c.product_flops(batch + chunk, batch + int(chunk > 0)) / flops)
    decodes = batch * context * kv_bytes / bandwidth
    return products + decodes + max(c.prefill_attention_flops(chunk, cached) / flops, cached * kv_bytes / bandwidth)


def largest_chunk(  # -> tokens
    config: Any, flops: float, bandwidth: float, limit: float, most: int, batch: int = 0, context: int = 0, cached: int = 0,
    bits: float = 16, kv_bits: float = 16
) -> int:
    """Find the largest chunk of prompt, at most `most` tokens, with which a step takes no longer than `limit` seconds.

    Beside it `batch` decodes run, each over `context` tokens; `cached` tokens of the prompt came before. Each decode draws one
    token a step, so the longest step is the largest gap between two tokens: limit is an objective for TPOT. step_time is the
    model of a step; it never falls as the chunk grows. 0: no token fits, or the decodes alone take longer. `most` may be as
    large as a context of a million tokens, and a server may ask before each step: to try all sizes is too slow.
    """
    # BEGIN SOLUTION ex=06.6
    low, high = 0, most
    while low < high:
        chunk = (low + high + 1) // 2
        if step_time(config, flops, bandwidth, batch, context, chunk, cached, bits, kv_bits) <= limit:
            low = chunk
        else:
            high = chunk - 1
    return low
    # END SOLUTION


def swap_time(config: Any, tokens: int, bandwidth: float, kv_bits: float = 16) -> float:  # -> seconds
    """Compute the time to move the cache of `tokens` tokens over a link at `bandwidth` bytes/s, one way.
    Recomputing it is prefill_time."""
    return tokens * config.kv_bytes_per_token(kv_bits / 8) / bandwidth


def generation_flops(config: Any, prompt: int, new: int, cache: bool = True) -> int:  # -> FLOPs
    """Count the FLOPs of a prompt and `new` tokens: each step feeds one token with a KV cache, the whole sequence without.

    The first new token comes from the prefill, so `new` tokens are a prefill and new - 1 steps.
    """
    c, lengths = config, range(prompt + 1, prompt + new)
    steps = (c.decode_flops(n) if cache else c.prefill_flops(n) for n in lengths)
    return c.prefill_flops(prompt) + sum(steps)


def blocked_traffic(m: int, k: int, n: int, rows: int, columns: int) -> int:  # -> elements moved
    """Count the elements that (m, k) · (k, n) moves by tiles of C of rows × columns; at the edges tiles are smaller.

    A tile of C needs the rows of A and the columns of B that lead to it, all of them, and nothing is kept between two tiles. Its
    sums stay in registers until they are complete: C is written once, and not read.
    """
    # BEGIN SOLUTION ex=11.5
    a = m * k * math.ceil(n / columns)  # once for each column of tiles
    b = k * n * math.ceil(m / rows)  # once for each row of tiles
    return a + b + m * n
    # END SOLUTION


def static_slots(batch: int) -> float:  # -> slots held for each token drawn
    """Compute E[max] / E[mean] of so many answers with exponential lengths: 1 + 1/2 + … + 1/batch."""
    return sum(1 / i for i in range(1, int(batch) + 1))


def queue_wait(load: float, service: float, cv: float = 1) -> float:  # -> seconds, in units of `service`
    """Compute the mean wait for one server with Poisson arrivals: Pollaczek-Khinchine. load: utilization, below 1."""
    return load / (1 - load) * (1 + cv**2) / 2 * service
