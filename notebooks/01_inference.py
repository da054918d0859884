# %% [markdown]
# # 01 · Inference: the wait and the pace
#
# The lesson ([01_inference.md](../lessons/01_inference.md)) claims that one number decides what a step costs: its *rows*,
# the tokens that go through the weights together. A prompt has many rows in one step, a lone answer has one row in each of
# many steps. Here we look at both, with the bound drawn before the measurement.
#
# Compiled kernels (`numba`, lesson 11) carry the claims. NumPy, whose code the lesson reads, stands beside them, labelled
# *readable*. Each point is the median of three runs; the shade behind it runs from the fastest to the slowest.

# %%
import heapq
import time
from functools import partial

import numpy as np

from minillm import SamplingParams, plots
from minillm.bench.machine import kept_machine
from minillm.bench.rounds import curves, medians
from minillm.bench.steps import decode_seconds, fill
from minillm.costs.time import decode_time, prefill_time, ridge_batch, roofline, step_time
from minillm.course.notebooks.figures import quote
from minillm.course.notebooks.model_at_hand import model_at_hand
from minillm.layers import softmax
from minillm.model.load import bits_per_weight
from minillm.model.presets import PRESETS
from minillm.model.sampling import distribution
from minillm.model.transformer import Segment
from minillm.model.zoo import resolve

llm = model_at_hand("numba")
readable = model_at_hand("numpy", say=lambda line: None)
config, fast, slow = llm.config, llm.transformer, readable.transformer

# %% [markdown]
# ## From text to a choice
#
# Text becomes token ids; ids go through `Transformer.forward`; out come logits, a score for each possible next token.

# %%
ids = readable.tokenizer.encode("Once upon a time, there was a little")
logits = slow.forward([Segment(ids, 0, slow.new_cache())])[0][-1]
print([readable.tokenizer.decode([i]) for i in ids])
for i in np.argsort(-logits)[:5]:
    print(f"{softmax(logits)[i]:6.1%}  {readable.tokenizer.decode([int(i)])!r}")

# %% [markdown]
# Temperature reshapes that distribution, top-p cuts its tail. How many tokens are left to draw from?

# %%
print("temperature  top_p  tokens left  likeliest")
for temperature, top_p in [(0, 1.0), (0.5, 0.9), (1.0, 0.5), (1.0, 0.9), (1.0, 1.0), (1.5, 0.9)]:
    p = distribution(logits, SamplingParams(temperature=temperature, top_p=top_p))
    print(f"{temperature:11.1f}  {top_p:5.1f}  {np.count_nonzero(p):11,}  {p.max():9.1%}")

# %% [markdown]
# ## The loop
#
# The first pass takes all of the prompt, each later one a single token. Nothing else is generation.


# %%
def generate(model, prompt, new):
    """Greedy: prefill, then one token at a time."""
    cache, rows, answer = model.new_cache(), prompt, []
    while len(answer) < new:
        logits = model.forward([Segment(rows, cache.length, cache)])[0][-1]
        answer.append(int(np.argmax(logits)))
        rows = answer[-1:]  # from now on, one row a step
    return answer


ours = generate(slow, ids, 12)
print(repr(readable.tokenizer.decode(ours)))
theirs = readable.generate(ids, SamplingParams(max_tokens=12, ignore_eos=True)).token_ids
print("the engine's loop gives the same:", ours == theirs)

# %% [markdown]
# ## What the machine can do at best
#
# Two numbers bound everything: bytes per second from memory, and FLOP/s of the instructions that the kernels use.

# %% tags=["timing"]
machine = kept_machine()
bandwidth, peak = machine.read_bytes_per_s, machine.peak(kernels=True)
bits = bits_per_weight(resolve(llm.source), config) if llm.source else 32
print(f"{bandwidth / 1e9:.1f} GB/s, {peak / 1e9:,.0f} GFLOP/s; a weight has {bits:.2f} bits, {32} in NumPy")
print(f"ridge of the weights' products: {quote('ridge', f'{ridge_batch(peak, bandwidth, bits / 8):.0f}')} rows a step")

# %% [markdown]
# ## The wait: TTFT of a prompt, in one step and in many
#
# The same prompt, the same kernels. Once all rows go through the model in one step, once they go one by one, as if the
# prompt were an answer. The floor is the larger of two times: FLOPs over FLOP/s, and weight bytes over bandwidth.


# %% tags=["timing"]
def prefill_s(model, n, rows=None):
    """Seconds until the first logits of a prompt of n random tokens, fed `rows` a step (all, unless told)."""
    prompt, cache = np.random.default_rng(n).integers(0, config.vocab_size, n), model.new_cache(n)
    pieces = [prompt[i : i + (rows or n)] for i in range(0, n, rows or n)]
    start = time.perf_counter()
    for piece in pieces[:-1]:
        model.forward([Segment(piece, cache.length, cache, "none")])
    model.forward([Segment(pieces[-1], cache.length, cache)])
    return time.perf_counter() - start


lengths = [16, 64, 128, 192, 256]
prompts = curves(
    {
        "compiled, one token a step": partial(prefill_s, fast, rows=1),
        "compiled, all in one step": partial(prefill_s, fast),
        "NumPy (readable), all in one step": partial(prefill_s, slow),
    },
    lengths,
)
alone, together, _ = prompts.values()
floor = [step_time(config, peak, bandwidth, chunk=n, bits=bits, kv_bits=32) for n in lengths]
one_pass = medians(alone)[-1] / medians(together)[-1]
print(f"{lengths[-1]} tokens in one step come {quote('one_pass', f'{one_pass:.1f}')} times sooner than one by one")

# %% tags=["timing", "drawing"]
fig, (axes,) = plots.figure()
plots.ttft_plot(
    axes,
    {name: (lengths, medians(runs)) for name, runs in prompts.items()},
    plots.finding(f"One step answers a prompt of {lengths[-1]} {one_pass:.1f} times sooner", one_pass > 1.5),
    bound=(lengths, floor, "floor: max(FLOPs / FLOP/s, bytes / bandwidth)"),
)
for i, runs in enumerate(prompts.values()):
    plots.spread(axes, lengths, runs, 1e3, shade=i)
axes.set_xticks(lengths)
plots.show(fig)

# %% [markdown]
# **The gap** between one step and the floor is made of unpacking the weights, of attention, norms and SwiGLU, which are no
# matrix products, and of the work to start each kernel; one token a step also reads all weights again for every token.
#
# ## The pace: rows from several sequences
#
# A decode step has one row for each sequence. The alternative is to serve them one after another, which keeps the pace of
# one. On the right is the price: how long each of them waits for its next token.


# %% tags=["timing"]
CONTEXT = 64


def decode_s(model, batch, steps=4):
    """Seconds of one decode step for `batch` sequences of some context; the fastest of a few."""
    caches = [fill(model.new_cache(CONTEXT + steps), config, CONTEXT) for _ in range(batch)]
    return min(decode_seconds(model, caches, steps))


batches = [1, 2, 4, 8, 16]
batched = curves(
    {"compiled, in one step": partial(decode_s, fast), "NumPy (readable), in one step": partial(decode_s, slow)}, batches
)
steps, numpy_steps = batched.values()
least = [step_time(config, peak, bandwidth, b, CONTEXT, bits=bits, kv_bits=32) for b in batches]
gain = batches[-1] * medians(steps)[0] / medians(steps)[-1]
slower = medians(steps)[-1] / medians(steps)[0]
print(f"a batch of {batches[-1]}: {quote('gain', f'{gain:.1f}')} times the tokens per second,")
print(f"and each sequence waits {quote('slower', f'{slower:.1f}')} times as long for its next token")
two, numpy_two = (medians(s)[1] / medians(s)[0] for s in (steps, numpy_steps))
print(f"a batch of two costs {quote('two', f'{two:.2f}')} steps of one,")
print(f"in NumPy {quote('numpy_two', f'{numpy_two:.2f}')}")

# %% tags=["timing", "drawing"]
fig, (left, right) = plots.figure(2)
ceiling = [b / t for b, t in zip(batches, least, strict=True)]
left.plot(batches, ceiling, color="black", linestyle="--", label="ceiling: batch / floor of a step")
for i, (name, runs) in enumerate(batched.items()):
    paces = [[b / t for t in times] for b, times in zip(batches, runs, strict=True)]
    plots.check_ceiling(name, medians(paces), ceiling)
    plots.check_floor(name, medians(runs), least)
    plots.series(left, i, batches, medians(paces), name)
    plots.spread(left, batches, paces, shade=i)
    plots.series(right, i, batches, [1e3 * t for t in medians(runs)], name)
    plots.spread(right, batches, runs, 1e3, shade=i)
plots.series(left, 2, batches, [1 / medians(steps)[0]] * len(batches), "compiled, one after another")
right.plot(batches, [1e3 * t for t in least], color="black", linestyle="--", label="floor: weights, then caches")
title = plots.finding(f"A batch of {batches[-1]} gives {gain:.1f} times the throughput", gain > 1.5)
plots.label(left, title, "sequences in the batch", "throughput (tokens/s)")
title = plots.finding(f"and makes each one's step {slower:.1f} times longer", slower > 1)
plots.label(right, title, "sequences in the batch", "time of a step, TPOT (ms)")
for axes in (left, right):
    axes.set_xticks(batches)
    plots.legend(axes)
plots.show(fig)

# %% [markdown]
# **The gap** is unpacking the weights once for each row or few rows, attention of each sequence alone, and some dozens of
# calls from Python in a step. NumPy's jump from one to two rows is a change of routine: a matrix-vector product reads at
# nearly full bandwidth, a product with two rows goes through a routine that was made for large matrices. Lesson 11 writes
# the kernel that is missing.
#
# ## Rows, not phases
#
# The same number of rows in a step, once as the tokens of one prompt (prefill) and once as one token each of many
# sequences (decode). If the phase decided the bound, these would be two curves.


# %% tags=["timing"]
rows = [1, 2, 4, 8, 16, 32, 64]
phases = {"prefill": partial(prefill_s, fast), "decode": partial(decode_s, fast)}
prefills, decodes = curves(phases, rows).values()
as_prefill = [config.prefill_flops(n) / t / 1e9 for n, t in zip(rows, medians(prefills), strict=True)]
as_decode = [n * config.decode_flops(CONTEXT) / t / 1e9 for n, t in zip(rows, medians(decodes), strict=True)]
speed = {"prefill: one prompt of so many tokens": as_prefill, "decode: so many sequences": as_decode}
flops = [config.prefill_flops(n) for n in rows], [n * config.decode_flops(CONTEXT) for n in rows]
roof = [roofline(2 * n / (bits / 8), peak, bandwidth) / 1e9 for n in rows]
apart = max(max(a / b, b / a) for a, b in zip(as_prefill, as_decode, strict=True))
faster = min(curve[-1] / curve[0] for curve in (as_prefill, as_decode))
print(f"{rows[-1]} rows compute {quote('rows_gain', f'{faster:.0f}')} times faster than one, in either phase;")
print(f"at equal rows the phases are at most {quote('apart', f'{apart:.1f}')} times apart")

# %% tags=["timing", "drawing"]
fig, (axes,) = plots.figure(width=7)
plots.log_scales(axes, rows)
axes.plot(rows, roof, color="black", linestyle="--", label="ceiling: min(FLOP/s, FLOPs per byte × bandwidth)")
for i, (name, curve) in enumerate(speed.items()):
    plots.check_ceiling(name, curve, roof)
    plots.series(axes, i, rows, curve, name)
    runs = [[f / t / 1e9 for t in times] for f, times in zip(flops[i], (prefills, decodes)[i], strict=True)]
    plots.spread(axes, rows, runs, shade=i)
ticks = [y for y in (1, 3, 10, 30, 100, 300, 1000, 3000) if 0.7 * min(as_prefill + as_decode) <= y <= 1.5 * max(roof)]
plots.log_heights(axes, ticks)
title = plots.finding("Rows in a step set the speed, in either phase", 1.5 * apart < faster)
plots.label(axes, title, "rows: tokens in one step", "speed of the step (GFLOP/s)")
axes.legend(loc="lower right", frameon=False)
plots.show(fig)

# %% [markdown]
# **The gap** under the slope is the fixed work of a step (calls, norms, attention), which a single row cannot hide; under
# the flat roof it is unpacking and scaling, which the peak of the bare instruction does not include.
#
# ## A queue: when a faster decode does shorten TTFT
#
# Nothing is measured here: a server with eight seats takes requests in order, at the floors of the lesson's example
# (Llama-3-8B, prompts of 1,000 tokens, answers of 200, one H100). A request keeps its seat until its answer is done.


# %%
shape, flops_per_s, bytes_per_s, seats = PRESETS["llama-3-8b"], 989e12, 3.35e12, 8
prefill = prefill_time(shape, 1000, flops_per_s)
pace = decode_time(shape, bytes_per_s, context=1100, batch=seats)


def mean_ttft(rate, pace, requests=20_000):
    """Mean seconds to the first token, with arrivals at random, `rate` a second on average."""
    free, total = [0.0] * seats, 0.0
    for arrived in np.cumsum(np.random.default_rng(0).exponential(1 / rate, requests)):
        begun = max(arrived, heapq.heappop(free))
        total += begun + prefill - arrived
        heapq.heappush(free, begun + prefill + 199 * pace)
    return total / requests


rates = [0.5, 2, 4, 5, 6, 7, 7.5]
now, halved = ([mean_ttft(rate, p) for rate in rates] for p in (pace, pace / 2))
shorter = now[-1] / halved[-1]
print(f"{prefill * 1e3:.1f} ms of prefill, {pace * 1e3:.2f} ms a token, {seats / (prefill + 199 * pace):.1f} requests/s at most")
print(f"TTFT at {rates[-1]} requests/s: {quote('queued', f'{now[-1] * 1e3:.0f}')} ms,"
      f" with decode twice as fast {quote('halved', f'{halved[-1] * 1e3:.0f}')} ms")  # fmt: skip

# %% tags=["drawing"]
fig, (axes,) = plots.figure(width=7)
plots.ttft_plot(
    axes,
    {"decode at its floor": (rates, now), "decode twice as fast": (rates, halved)},
    plots.finding(
        f"Near saturation a faster decode makes TTFT {shorter:.0f} times shorter",
        shorter > 2 and now[0] < 1.05 * halved[0],
        counted=True,
    ),
    x="requests a second",
    bound=(rates, [prefill] * len(rates), "floor: prefill alone"),
)
plots.show(fig)

# %% [markdown]
# **The gap** to the floor is the queue: time until a seat is free. On an idle server (far left) there is none, and there a
# faster decode changes nothing.
#
# ## Try it
#
# Predict first, then move the sliders: which model on which machine answers a prompt within a second? (Needs
# `ipywidgets`.)

# %% tags=["skip-execution"]
from ipywidgets import interact

from minillm.costs.time import decode_ceiling


@interact(name=list(PRESETS), prompt=(100, 8000, 100), tflops=(1, 1000, 1), gigabytes_per_s=(10, 3500, 10), bits=[16, 8, 4])
def predict(name="llama-3-8b", prompt=1000, tflops=165, gigabytes_per_s=1008, bits=16):
    print(f"TTFT at least {prefill_time(PRESETS[name], prompt, tflops * 1e12):.3f} s")
    print(f"at most {decode_ceiling(PRESETS[name], gigabytes_per_s * 1e9, bits):,.0f} tokens/s")
