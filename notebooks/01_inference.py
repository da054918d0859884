# %% [markdown]
# # 01 · Inference: the wait and the pace
#
# The lesson ([01_inference.md](../lessons/01_inference.md)) claims that answering a prompt is two computations with
# two limits: *prefill*, limited by arithmetic, and *decode*, limited by memory bandwidth. Here we look at both, with
# the ceiling drawn before the measurement.

# %%
import time

import numpy as np

from minillm import SamplingParams, plots
from minillm.bench.machine import measure_machine
from minillm.course.notebooks.model_at_hand import model_at_hand
from minillm.layers import softmax
from minillm.model.sampling import distribution
from minillm.model.transformer import Segment

llm = model_at_hand()
config, model = llm.config, llm.transformer

# %% [markdown]
# ## From text to a choice
#
# Text becomes token ids; ids go through `Transformer.forward`; out come logits, a score for each possible next token.

# %%
ids = llm.tokenizer.encode("Once upon a time, there was a little")
logits = model.forward([Segment(ids, 0, model.new_cache())])[0][-1]
print([llm.tokenizer.decode([i]) for i in ids])
for i in np.argsort(-logits)[:5]:
    print(f"{softmax(logits)[i]:6.1%}  {llm.tokenizer.decode([int(i)])!r}")

# %% [markdown]
# Temperature reshapes that distribution, top-p cuts its tail. How many tokens are left to draw from?

# %%
print("temperature  top_p  tokens left  likeliest")
for temperature, top_p in [(0, 1.0), (0.5, 0.9), (1.0, 0.5), (1.0, 0.9), (1.0, 1.0), (1.5, 0.9)]:
    p = distribution(logits, SamplingParams(temperature=temperature, top_p=top_p))
    print(f"{temperature:11.1f}  {top_p:5.1f}  {np.count_nonzero(p):11,}  {p.max():9.1%}")

# %% [markdown]
# ## What the machine can do at best
#
# Two numbers bound everything: bytes per second (a product of a matrix that fits no cache with a vector) and FLOP/s
# (a product of two square matrices).

# %% tags=["timing"]
machine = measure_machine(megabytes=256)
print(f"{machine.read_bytes_per_s / 1e9:.1f} GB/s, {machine.flops_per_s / 1e9:,.0f} GFLOP/s")
print(f"ridge: {machine.flops_per_s / machine.read_bytes_per_s:.1f} FLOP per byte")

# %% [markdown]
# ## The wait: TTFT against prompt length
#
# The dashed line is `prefill_flops(n) / FLOP/s`, or the time to read the weights once where that is longer. A prompt
# cannot be answered sooner on this machine in float32.


# %% tags=["timing"]
def prefill_s(n, batch=1):
    """Seconds to prefill `batch` prompts of n random tokens in one step; the better of two."""
    prompts = np.random.default_rng(n).integers(0, config.vocab_size, (batch, n))

    def once():
        start = time.perf_counter()
        model.forward([Segment(p, 0, model.new_cache()) for p in prompts])
        return time.perf_counter() - start

    return min(once(), once())


prefill_s(8)
weights_s = config.decode_bytes(0, bits_per_weight=32) / machine.read_bytes_per_s
lengths = [8, 32, 64, 128, 256, 384, 512]
measured = [prefill_s(n) for n in lengths]
bound = [max(config.prefill_flops(n) / machine.flops_per_s, weights_s) for n in lengths]

# %% tags=["timing", "drawing"]
fig, (axes,) = plots.figure()
slope = (measured[-1] - measured[0]) / (lengths[-1] - lengths[0])
plots.ttft_plot(
    axes,
    {"measured": (lengths, measured)},
    f"Each prompt token adds {1e3 * slope:.1f} ms to the wait",
    bound=(lengths, bound, "ceiling: max(FLOPs / FLOP/s, weight bytes / bandwidth)"),
)
plots.show(fig)

# %% [markdown]
# **The gap** is attention's softmax, norms, RoPE and SwiGLU, which NumPy does one pass over memory at a time, and
# matrix products smaller than the one that the ceiling was measured with.
#
# ## The pace: what a batch costs
#
# One decode step reads every weight, for one sequence or for sixteen. So tokens per second should grow almost with
# the batch, until arithmetic takes longer than reading: at the ridge.


# %% tags=["timing"]
def decode_s(batch, context=64, steps=3):
    """Seconds of one decode step for `batch` sequences of some context; the best of a few."""
    caches = [model.new_cache() for _ in range(batch)]
    prompt = np.random.default_rng(0).integers(0, config.vocab_size, context)
    model.forward([Segment(prompt, 0, c, "none") for c in caches])
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        model.forward([Segment([7], c.length, c) for c in caches])
        times.append(time.perf_counter() - start)
    return min(times)


batches = [1, 2, 4, 8, 16]
steps = [decode_s(b) for b in batches]
reading = [config.decode_bytes(64, b, 32, 4) / machine.read_bytes_per_s for b in batches]
computing = [b * config.decode_flops(64) / machine.flops_per_s for b in batches]
ceiling = [b / max(r, c) for b, r, c in zip(batches, reading, computing, strict=True)]

# %% tags=["timing", "drawing"]
fig, (axes,) = plots.figure()
axes.plot(batches, ceiling, color="black", linestyle="--", label="ceiling: the slower of bytes / bandwidth and FLOPs / FLOP/s")
plots.series(axes, 0, batches, [b / s for b, s in zip(batches, steps, strict=True)], "measured")
gain = batches[-1] * steps[0] / steps[-1]
title = f"A batch of {batches[-1]} gives {gain:.1f} times the tokens per second"
plots.label(axes, title, "sequences in the batch", "throughput (tokens/s)")
plots.legend(axes)
plots.show(fig)

# %% [markdown]
# **The gap** at batch 1 is small: a matrix-vector product runs at nearly full bandwidth. Just above 1 it opens wide:
# OpenBLAS switches to its matrix-matrix kernel, which is made for large matrices and repacks the weights for two or
# four rows. Lesson 11 writes the kernel that is missing.
#
# ## Both in one picture: the roofline
#
# Arithmetic intensity is FLOPs over bytes. Left of the ridge bandwidth limits, right of it arithmetic. Decode of one
# sequence sits at the far left, prefill at the far right: the same model, the same code.

# %% tags=["timing", "drawing"]
fig, (axes,) = plots.figure()
xs = np.geomspace(0.1, 1000, 50)
roof = np.minimum(machine.flops_per_s, xs * machine.read_bytes_per_s) / 1e9
axes.plot(xs, roof, color="black", linestyle="--", label="roof: min(FLOP/s, intensity × bandwidth)")
decode_x = [b * config.decode_flops(64) / config.decode_bytes(64, b, 32, 4) for b in batches]
decode_y = [b * config.decode_flops(64) / s / 1e9 for b, s in zip(batches, steps, strict=True)]
plots.series(axes, 0, decode_x, decode_y, f"decode, batch {batches[0]} to {batches[-1]}")
prefill_x = [config.prefill_flops(n) / config.decode_bytes(n, 1, 32, 4) for n in lengths]
prefill_y = [config.prefill_flops(n) / s / 1e9 for n, s in zip(lengths, measured, strict=True)]
plots.series(axes, 1, prefill_x, prefill_y, f"prefill, {lengths[0]} to {lengths[-1]} tokens")
axes.set_xscale("log")
axes.set_yscale("log")
title = "Decode lives under the slope, prefill under the flat roof"
plots.label(axes, title, "arithmetic intensity (FLOP per byte)", "speed (GFLOP/s)")
axes.legend(loc="lower right", frameon=False)
plots.show(fig)

# %% [markdown]
# ## Try it
#
# Predict first, then move the sliders: which model on which machine answers a prompt within a second? (Needs
# `ipywidgets`.)

# %% tags=["skip-execution"]
from ipywidgets import interact

from minillm.costs.time import decode_ceiling, prefill_time
from minillm.model.presets import PRESETS


@interact(name=list(PRESETS), prompt=(100, 8000, 100), tflops=(1, 1000, 1), gigabytes_per_s=(10, 3500, 10), bits=[16, 8, 4])
def predict(name="llama-3-8b", prompt=1000, tflops=165, gigabytes_per_s=1008, bits=16):
    print(f"TTFT at least {prefill_time(PRESETS[name], prompt, tflops * 1e12):.3f} s")
    print(f"at most {decode_ceiling(PRESETS[name], gigabytes_per_s * 1e9, bits):,.0f} tokens/s")
