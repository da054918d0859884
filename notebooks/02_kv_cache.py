# %% [markdown]
# # 02 · The KV cache: what is kept need not be computed
#
# The lesson ([02_kv_cache.md](../lessons/02_kv_cache.md)) claims: with a cache each token costs one row, the answer is
# the same to the last token, and what limits the pace is the reading of bytes: first of the weights, later of the cache.
#
# Compiled kernels (`numba`, lesson 11) carry the claims. NumPy, whose code the lesson reads, stands beside them, labelled
# *readable*. Each figure is the median of three runs; shades and bars of error run from the fastest to the slowest.

# %%
import time
from dataclasses import replace
from functools import partial
from statistics import median

import numpy as np

from minillm import SamplingParams, plots
from minillm.bench.machine import kept_machine
from minillm.bench.rounds import curves, in_turn, medians
from minillm.bench.steps import decode_seconds, fill
from minillm.costs.time import generation_flops, step_time
from minillm.course.notebooks.figures import quote
from minillm.course.notebooks.model_at_hand import model_at_hand
from minillm.metrics.events import TOKEN, EventLog, tpot, ttft
from minillm.model.generate import generate_tokens
from minillm.model.load import bits_per_weight
from minillm.model.presets import PRESETS
from minillm.model.transformer import Segment
from minillm.model.zoo import resolve

llm = model_at_hand("numba")
readable = model_at_hand("numpy", say=lambda line: None)
config, model = llm.config, llm.transformer

# %% [markdown]
# ## What it takes: bytes per token
#
# `2 × layers × KV heads × d_head × bytes per value`, for models you know, in 16 bits. Grouped heads are why
# Llama-3-8B needs a quarter of Llama-2-7B.

# %%
print(f"{'model':16}{'KV heads':>10}{'per token':>12}{'1,200 tokens':>15}{'weights':>10}")
for name in ("smollm2-135m", "llama-2-7b", "llama-3-8b", "llama-3-70b", "qwen2-7b", "qwen3-32b"):
    c = PRESETS[name]
    per_token, heads = c.kv_bytes_per_token(), f"{c.n_kv_heads} of {c.n_heads}"
    print(f"{name:16}{heads:>10}{per_token / 1024:8.1f} KiB{1200 * per_token / 1e6:12.0f} MB{c.weight_bytes() / 1e9:7.1f} GB")

# %% tags=["timing"]
machine = kept_machine()
bandwidth, peak = machine.read_bytes_per_s, machine.peak(kernels=True)
bits = bits_per_weight(resolve(llm.source), config) if llm.source else 32
weights, per_token = config.decode_bytes(0, 1, bits), config.kv_bytes_per_token(4)
print(f"{bandwidth / 1e9:.1f} GB/s; a step reads {weights / 1e6:.0f} MB of weights,")
print(f"and {per_token / 1e3:.0f} kB for each token that is cached")

# %% [markdown]
# ## Off and on
#
# The same prompt, the same greedy tokens; only `use_cache` differs.

# %% tags=["timing"]
NEW, RUNS = 48, 3
PROMPT = llm.chat([{"role": "user", "content": "Tell me a short story about a brave little fox."}])


def generate(engine, new, use_cache):
    """The log of when each token came."""
    log = EventLog()
    sequence = engine.sequence(0, PROMPT, SamplingParams(max_tokens=new, ignore_eos=True))
    for _ in generate_tokens(engine.transformer, (), [sequence], log, use_cache=use_cache):
        pass
    answers.setdefault(new, set()).add(tuple(sequence.token_ids))
    return log


def runs_of(engine, new):
    """{name: [log of each run]}, without and with the cache in turn."""
    generate(engine, 2, True)  # warms up
    found = in_turn((False, True), RUNS, partial(generate, engine, new))
    return {"no cache": found[False], "KV cache": found[True]}


answers = {}
compiled = runs_of(llm, NEW)
print("same tokens with and without:", len(answers[NEW]) == 1)
slow = runs_of(readable, NEW // 6)
p = len(llm.sequence(0, PROMPT, SamplingParams()).prompt_token_ids)


def gaps(logs):
    """Milliseconds before each token but the first: [[of each run]]."""
    return np.array([np.diff(log.times(0, TOKEN)) * 1e3 for log in logs]).T


saved = generation_flops(config, p, NEW, cache=False) / generation_flops(config, p, NEW)
both = {"compiled": compiled, "NumPy\n(readable)": slow}
speeds = {f"{name},\n{how}": [1 / tpot(log, 0) for log in logs] for how, found in both.items() for name, logs in found.items()}
pace = {name: median(values) for name, values in speeds.items()}
off, on, numpy_off, numpy_on = pace.values()
print(f"{quote('saved', f'{saved:.0f}')} times fewer FLOPs; {quote('faster', f'{on / off:.1f}')} times the tokens per second,")
print(f"in NumPy {quote('numpy_faster', f'{numpy_on / numpy_off:.1f}')}")
first_off, first_on = (median(ttft(log, 0) for log in logs) for logs in compiled.values())
print(f"TTFT of this first prompt: {1e3 * first_off:.0f} ms without, {1e3 * first_on:.0f} ms with the cache")

# %% [markdown]
# Why is the gain in time smaller than the gain in FLOPs? Without the cache a step has many rows and reads the weights once
# for all of them; with it a step has one row and reads them for that row alone. Far less work, at far fewer FLOP/s.

# %% tags=["timing", "drawing"]
fig, (left, right) = plots.figure(2)
rising = {}
for i, (name, logs) in enumerate(compiled.items()):
    middle = medians(gaps(logs))
    plots.series(left, i, range(2, NEW + 1), middle, f"{name}, compiled")
    plots.spread(left, range(2, NEW + 1), gaps(logs), shade=i)
    rising[name] = np.median(middle[-12:]) / np.median(middle[:12])
title = plots.finding("Without a cache each token takes longer", rising["no cache"] > max(1.15, rising["KV cache"]))
plots.label(left, title, "token of the answer", "time of this token (ms)")
plots.legend(left)
top = 1 / step_time(config, peak, bandwidth, 1, p + NEW // 2, bits=bits, kv_bits=32)
title = plots.finding(f"The cache gives {on / off:.1f} times the tokens per second", on > 1.5 * off and numpy_on > numpy_off)
plots.throughput_plot(right, pace, title, (top, "ceiling: bandwidth / bytes of a step"))
plots.spread_bars(right, list(speeds.values()))
plots.show(fig)

# %% [markdown]
# **The gap** under the ceiling is unpacking the weights, and some dozens of calls a step during which nothing is read. NumPy
# keeps weights of 32 bits and reads several times as many bytes: its own ceiling is lower.
#
# ## TTFT: the next turn of a chat
#
# For a first prompt the cache changes nothing: every token is new. It pays when the prompt *continues* something: the
# second turn of a chat repeats the first. Off, the whole conversation is prefilled again; on, only what is new.


# %% tags=["timing"]
def next_turn_s(model, keep, history, new=16):
    """TTFT of a turn of 16 new tokens after a history, with its cache kept or thrown away."""
    ids = np.random.default_rng(history).integers(0, config.vocab_size, history + new)
    cache = model.new_cache(history + new)
    if keep:
        fill(cache, config, history)
    start = time.perf_counter()
    model.forward([Segment(ids[cache.length :], cache.length, cache)])
    return time.perf_counter() - start


histories = [n for n in (32, 128, 256, 512) if n + 16 <= config.context_length]
turns = curves(
    {
        "compiled, history computed again": partial(next_turn_s, model, False),
        "compiled, history cached": partial(next_turn_s, model, True),
        "NumPy (readable), history cached": partial(next_turn_s, readable.transformer, True),
    },
    histories,
    RUNS,
)
again, cached, _ = (median(runs[-1]) for runs in turns.values())
floor = [step_time(config, peak, bandwidth, chunk=16, cached=h, bits=bits, kv_bits=32) for h in histories]
print(f"after {histories[-1]} tokens of history: {quote('turn', f'{again / cached:.1f}')} times sooner")

# %% tags=["timing", "drawing"]
fig, (axes,) = plots.figure()
plots.ttft_plot(
    axes,
    {name: (histories, medians(runs)) for name, runs in turns.items()},
    plots.finding(f"A kept history of {histories[-1]} makes TTFT {again / cached:.1f} times shorter", again > 1.5 * cached),
    x="tokens of history before the turn",
    bound=(histories, floor, "floor of 16 new tokens: weights, then attention"),
)
for i, runs in enumerate(turns.values()):
    plots.spread(axes, histories, runs, 1e3, shade=i)
axes.set_xticks(histories)
plots.show(fig)

# %% [markdown]
# **The gap** between the cached turn and the floor is unpacking, norms, and the calls of a step; between the two measured
# curves lies nothing but the history.
#
# ## When it hurts: pace against context
#
# Each step reads the whole cache. The kernels keep weights of few bits and a cache of 32, so the cache soon weighs more than
# the model. (Here the shade runs from the fastest to the slowest of five steps.)


# %% tags=["timing"]
contexts = [n for n in (16, 512, 1024, 2048, 3072) if n + 8 <= config.context_length]
long = [decode_seconds(model, [fill(model.new_cache(n + 5), config, n)], 5) for n in contexts]
left_over = median(long[0]) / median(long[-1])
print(f"at {contexts[-1]:,} tokens the pace is {quote('left', f'{left_over:.0%}')} of that at {contexts[0]}")


room = min(2048, config.context_length // 2)


def growth_s(tokens=room):
    """Seconds of two steps: one that has room in the cache, and one that doubles it first."""
    return decode_seconds(model, [fill(model.new_cache(tokens), config, tokens - 1)], 2)


fits, doubles = medians(zip(*(growth_s() for _ in range(RUNS)), strict=True))
print(f"the step that doubles a cache of {room:,} tokens takes {quote('spike', f'{doubles / fits:.1f}')} times as long as others")

# %% tags=["timing", "drawing"]
fig, (axes,) = plots.figure()
allowed = [1 / step_time(config, peak, bandwidth, 1, n, bits=bits, kv_bits=32) for n in contexts]
axes.plot(contexts, allowed, color="black", linestyle="--", label="ceiling: bandwidth / (weights + context × bytes per token)")
paces = [[1 / t for t in times] for times in long]
plots.check_ceiling("pace", medians(paces), allowed)
plots.series(axes, 0, contexts, medians(paces), "compiled")
plots.spread(axes, contexts, paces, shade=0)
title = plots.finding(f"At {contexts[-1]:,} tokens of context {left_over:.0%} of the pace is left", left_over < 0.8)
plots.label(axes, title, "context (tokens)", "pace (tokens/s)")
axes.set_xticks(contexts)
plots.legend(axes)
plots.show(fig)

# %% [markdown]
# **The gap** at short contexts is the fixed work of a step; at long ones it is attention, whose kernels read keys and values
# at less than full bandwidth.
#
# ## The cache's share of a step, against batch
#
# Left: bytes of a decode step, counted, for models with 1,200 tokens a sequence. Right: our model, measured: the share of a
# step's time that is there with 512 tokens of context and is not with 8.


# %% tags=["timing"]
def share_of(c, batch, context=1200, weights=None, per_token=None):
    """Share of the bytes of a decode step that are keys and values."""
    cache = batch * context * (per_token or c.kv_bytes_per_token())
    return cache / (cache + (weights or c.decode_bytes(0)))


def batch_s(context, batch, steps=4):
    caches = [fill(model.new_cache(context + steps), config, context) for _ in range(batch)]
    return min(decode_seconds(model, caches, steps))


llama, batches = PRESETS["llama-3-8b"], [1, 2, 4, 8, 16, 32, 64, 128, 256]
designs = {
    "32 KV heads (as in MHA)": replace(llama, n_kv_heads=32),
    "8 KV heads (GQA: Llama-3-8B)": llama,
    "1 KV head (MQA)": replace(llama, n_kv_heads=1),
}
half = next(b for b in range(1, 1000) if share_of(llama, b) > 0.5)
print(f"Llama-3-8B: more than half of a step's bytes are cache from a batch of {quote('half', half)} on; ", end="")
print(f"at 32 it is {quote('share_32', f'{share_of(llama, 32):.0%}')}")
ours, few, many = [1, 2, 4, 8], 8, min(512, config.context_length // 2)
short, full = curves({"short": partial(batch_s, few), "full": partial(batch_s, many)}, ours, RUNS).values()
shares = [[1 - s / f for s, f in zip(*pair, strict=True)] for pair in zip(short, full, strict=True)]
measured = medians(shares)
counted = [share_of(config, b, many, weights, per_token) for b in ours]
print(f"ours: {measured[0]:.0%} of the time of one, {quote('share_8', f'{measured[-1]:.0%}')} of a batch of {ours[-1]}")

# %% tags=["timing", "drawing"]
fig, (left, right) = plots.figure(2)
for i, (name, c) in enumerate(designs.items()):
    plots.series(left, i, batches, [share_of(c, b) for b in batches], name)
left.axhline(0.5, color="black", linestyle="--", linewidth=1.2)
crosses = share_of(llama, half - 1) <= 0.5 < share_of(llama, half)
title = plots.finding(f"Llama-3-8B: from {half} sequences on, most bytes are cache", crosses, counted=True)
plots.label(left, title, "sequences in the batch", "cache's share of a step's bytes")
left.set_xscale("log", base=2)
left.set_xticks(batches, [str(b) for b in batches])
plots.series(right, 0, ours, measured, f"share of the time at {many} tokens, measured")
plots.spread(right, ours, shares, shade=0)
plots.series(right, 1, ours, counted, "share of the bytes, counted")
title = plots.finding("The larger the batch, the larger the cache's share", measured[-1] > measured[0])
plots.label(right, title, "sequences in the batch", "cache's share of a step")
right.set_xticks(ours)
for axes in (left, right):
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:.0%}")
    plots.legend(axes)
    axes.set_ylim(0, 1.35)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
plots.show(fig)

# %% [markdown]
# **The gap** between counted and measured is arithmetic: the products of a batch take longer than reading the weights, which
# lowers the cache's share of the time, and attention reads more slowly than a plain read, which raises it.
#
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
