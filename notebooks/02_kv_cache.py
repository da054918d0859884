# %% [markdown]
# # 02 · The KV cache: what is kept need not be computed
#
# The lesson ([02_kv_cache.md](../lessons/02_kv_cache.md)) claims: with a cache each token costs one token's work, the
# answer is the same to the last token, and what limits the pace is the reading of bytes. We generate with the cache
# off and on.

# %%
import time

import numpy as np

from minillm import SamplingParams, plots
from minillm.bench.machine import measure_machine
from minillm.costs.time import generation_flops
from minillm.course.notebooks.model_at_hand import model_at_hand
from minillm.metrics.events import TOKEN, EventLog, tpot, ttft
from minillm.model.generate import generate_tokens
from minillm.model.presets import PRESETS
from minillm.model.transformer import Segment

llm = model_at_hand()
config, model = llm.config, llm.transformer
NEW = 32

# %% [markdown]
# ## What it takes: bytes per token
#
# `2 × layers × KV heads × d_head × bytes per value`, for models you know, in 16 bits. Grouped heads are why
# Llama-3-8B needs a quarter of Llama-2-7B.

# %%
print(f"{'model':16}{'KV heads':>10}{'per token':>12}{'8,192 tokens':>15}{'weights':>10}")
for name, c in PRESETS.items():
    per_token = c.kv_bytes_per_token()
    heads = f"{c.n_kv_heads} of {c.n_heads}"
    print(f"{name:16}{heads:>10}{per_token / 1024:8.1f} KiB{8192 * per_token / 1e9:12.2f} GB{c.weight_bytes() / 1e9:7.1f} GB")

# %% [markdown]
# ## Off and on
#
# The same prompt, the same greedy tokens; only `use_cache` differs.


# %% tags=["timing"]
def generate(use_cache):
    """Token ids, and the log of when each came."""
    log = EventLog()
    prompt = llm.chat([{"role": "user", "content": "Tell me a short story about a brave little fox."}])
    sequence = llm.sequence(0, prompt, SamplingParams(max_tokens=NEW, ignore_eos=True))
    for _ in generate_tokens(model, (), [sequence], log, use_cache=use_cache):
        pass
    return sequence, log


generate(True)
(plain, plain_log), (cached, cached_log) = generate(False), generate(True)
print("same tokens:", plain.token_ids == cached.token_ids)
p = len(plain.prompt_token_ids)
saved = generation_flops(config, p, NEW, cache=False) / generation_flops(config, p, NEW)
taken = (plain_log.events[-1].time - plain_log.events[0].time) / (cached_log.events[-1].time - cached_log.events[0].time)
print(f"{saved:.0f} times fewer FLOPs, {taken:.1f} times less time")

# %% [markdown]
# Why is the gain in time smaller than the gain in FLOPs? Without the cache each step multiplies matrices by matrices,
# near the arithmetic roof; with it, matrices by a vector, under the slope of the roofline. Far less work, and each
# FLOP takes longer.

# %% tags=["timing", "drawing"]
fig, (left, right) = plots.figure(2)
for i, (name, log) in enumerate([("no cache", plain_log), ("KV cache", cached_log)]):
    times = log.times(0, TOKEN)
    plots.series(left, i, range(2, NEW + 1), [1e3 * (b - a) for a, b in zip(times, times[1:], strict=False)], name)
plots.label(left, "Without a cache each token takes longer than the last", "token of the answer", "time of this token (ms)")
plots.legend(left)
machine = measure_machine(megabytes=256)
top = machine.read_bytes_per_s / config.decode_bytes(p + NEW // 2, 1, 32, 4)
speeds = {"no cache": 1 / tpot(plain_log, 0), "KV cache": 1 / tpot(cached_log, 0)}
ratio = speeds["KV cache"] / speeds["no cache"]
plots.throughput_plot(
    right, speeds, f"The cache gives {ratio:.1f} times the tokens per second", (top, "ceiling: bandwidth / bytes per token")
)
plots.show(fig)

# %% [markdown]
# **The gap** under the ceiling is NumPy's overhead per call, some hundreds of small calls a step, during which no
# weight is being read.
#
# ## TTFT: the next turn of a chat
#
# For a first prompt the cache changes nothing: every token is new. It pays when the prompt *continues* something: the
# second turn of a chat repeats the first. Off, the whole conversation is prefilled again; on, only what is new.


# %% tags=["timing"]
def next_turn_s(history, keep, new=16):
    """TTFT of a turn of 16 new tokens after a history, with its cache kept or thrown away."""
    ids = np.random.default_rng(history).integers(0, config.vocab_size, history + new)
    cache = model.new_cache()
    if keep:
        model.forward([Segment(ids[:history], 0, cache, "none")])
    start = time.perf_counter()
    model.forward([Segment(ids[cache.length :], cache.length, cache)])
    return time.perf_counter() - start


histories = [16, 64, 128, 256]
off, on = ([next_turn_s(h, keep) for h in histories] for keep in (False, True))
floor = config.decode_bytes(0, bits_per_weight=32) / machine.read_bytes_per_s
bound = [max(config.prefill_flops(16, cached=h) / machine.flops_per_s, floor) for h in histories]

# %% tags=["timing", "drawing"]
fig, (axes,) = plots.figure()
plots.ttft_plot(
    axes,
    {"history computed again": (histories, off), "history cached": (histories, on)},
    f"After {histories[-1]} tokens of history the cache saves {1 - on[-1] / off[-1]:.0%} of the wait",
    x="tokens of history before the turn",
    bound=(histories, bound, "ceiling for 16 new tokens: max(FLOPs / FLOP/s, bytes / bandwidth)"),
)
plots.show(fig)
print(f"TTFT of the first prompt: {1e3 * ttft(plain_log, 0):.0f} ms without, {1e3 * ttft(cached_log, 0):.0f} ms with the cache")

# %% [markdown]
# ## Pace against context
#
# Each step also reads the cache. In float32 a token of SmolLM2 adds 45 KiB to read against 538 MB of weights, so the
# ceiling falls slowly; for a server with a hundred users the cache is the larger part.


# %% tags=["timing"]
def paces_at(contexts, steps=4):
    """Tokens per second of one sequence, at each context as it grows."""
    cache, found = model.new_cache(), []
    for context in contexts:
        cache.truncate(min(cache.length, context))
        while (missing := context - cache.length) > 0:
            model.forward([Segment(np.full(min(256, missing), 5), cache.length, cache, "none")])
        times = []
        for _ in range(steps):
            start = time.perf_counter()
            model.forward([Segment([7], cache.length, cache)])
            times.append(time.perf_counter() - start)
        found.append(1 / min(times))
    return found


contexts = [n for n in (16, 256, 512, 1024) if n + 8 <= config.context_length]
paces = paces_at(contexts)

# %% tags=["timing", "drawing"]
fig, (axes,) = plots.figure()
allowed = [machine.read_bytes_per_s / config.decode_bytes(n, 1, 32, 4) for n in contexts]
axes.plot(contexts, allowed, color="black", linestyle="--", label="ceiling: bandwidth / (weights + context × bytes per token)")
plots.series(axes, 0, contexts, paces, "measured")
title = f"At {contexts[-1]} tokens of context the pace is {paces[-1] / paces[0]:.0%} of that at {contexts[0]}"
plots.label(axes, title, "context (tokens)", "pace (tokens/s)")
plots.legend(axes)
plots.show(fig)

# %% [markdown]
# ## Try it
#
# How many users fit? Predict, then move. (Needs `ipywidgets`.)

# %% tags=["skip-execution"]
from ipywidgets import interact

from minillm.costs.memory import kv_tokens


@interact(name=list(PRESETS), gigabytes=(8, 640, 8), context=(512, 32768, 512), weight_bits=[16, 8, 4], kv_bits=[16, 8])
def users(name="llama-3-8b", gigabytes=80, context=8192, weight_bits=16, kv_bits=16):
    tokens = kv_tokens(PRESETS[name], gigabytes * 1e9, weight_bits=weight_bits, kv_bits=kv_bits)
    print(f"{tokens:,.0f} tokens of cache beside the weights: {tokens / context:,.1f} users of {context:,} tokens")
