"""Single steps, timed: a prefill, a short answer, and decode steps at a context without the prefill that leads there.

What a step costs does not depend on what its caches hold, so they may hold random numbers:

    caches = [fill(model.new_cache(512 + steps), model.config, 512) for _ in range(batch)]
    fastest = min(decode_seconds(model, caches, steps))

A prefill of 512 tokens costs as much as some hundred steps, and a figure of three rounds would pay for it each time.
"""

import time
from collections.abc import Sequence

import numpy as np

from minillm.cache.protocol import KVCache
from minillm.llm import LLM
from minillm.metrics.events import TOKEN, EventLog
from minillm.model.config import ModelConfig
from minillm.model.generate import generate_tokens
from minillm.model.params import SamplingParams
from minillm.model.transformer import Segment, Transformer


def random_ids(config: ModelConfig, tokens: int) -> list[int]:
    """Draw the ids of a prompt: the same for the same number of tokens."""
    return np.random.default_rng(tokens).integers(0, config.vocab_size, tokens).tolist()


def prefill_seconds(model: Transformer, tokens: int) -> float:
    """Time the first pass of a prompt: seconds until its logits are there."""
    segment = Segment(random_ids(model.config, tokens), 0, model.new_cache())
    start = time.perf_counter()
    model.forward([segment])
    return time.perf_counter() - start


def pace(llm: LLM, model: Transformer, prompt: int, new: int = 12) -> tuple[float, list[int]]:  # -> tokens/s, tokens
    """Let one sequence draw greedily, after a prompt of random tokens: its pace after the first token, and what it drew.

    model: llm's, or one with other operations. new: 2 or more.
    """
    log, cache = EventLog(), model.new_cache()
    sequence = llm.sequence(0, random_ids(llm.config, prompt), SamplingParams(max_tokens=new, ignore_eos=True), cache=cache)
    for _ in generate_tokens(model, (), [sequence], log):
        pass
    times = log.times(0, TOKEN)
    return (new - 1) / (times[-1] - times[0]), sequence.token_ids


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
