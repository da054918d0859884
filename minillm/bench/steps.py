"""Decode steps at a context, without the prefill that leads there: what a step costs does not depend on what its caches hold.

    caches = [fill(model.new_cache(512 + steps), model.config, 512) for _ in range(batch)]
    fastest = min(decode_seconds(model, caches, steps))

A prefill of 512 tokens costs as much as some hundred steps, and a figure of three rounds would pay for it each time.
"""

import time
from collections.abc import Sequence

import numpy as np

from minillm.cache.protocol import KVCache
from minillm.model.config import ModelConfig
from minillm.model.transformer import Segment, Transformer


def fill(cache: KVCache, config: ModelConfig, tokens: int) -> KVCache:
    """Append random keys and values of so many tokens to each layer; give the cache back."""
    kv = np.random.default_rng(tokens).standard_normal((tokens, config.n_kv_heads, config.d_head), np.float32)
    for layer in range(config.n_layers if tokens else 0):
        cache.append(layer, kv, kv)
    return cache


def decode_seconds(model: Transformer, caches: Sequence[KVCache], steps: int) -> list[float]:  # seconds of each step
    """Time steps in which each of these caches takes one more token."""
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        model.forward([Segment([7], cache.length, cache) for cache in caches])
        seconds.append(time.perf_counter() - start)
    return seconds
