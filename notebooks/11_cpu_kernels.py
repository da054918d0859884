# %% [markdown]
# # 11 · CPU kernels: from a naive loop to the speed of memory
#
# The lesson ([11_cpu_kernels.md](../lessons/11_cpu_kernels.md)) claims: one token is bound by memory, many by arithmetic;
# between a plain loop and either ceiling lies a factor that layout, lanes, threads and prefetch make up. We measure the
# ceilings, climb the ladder, and then let a model run on NumPy and on the result.

# %%
import copy
from dataclasses import replace
from functools import partial
from statistics import median

import numpy as np

from minillm import layers, plots
from minillm.backends.numba_.bands import operand
from minillm.backends.numba_.linear import linear, plain
from minillm.backends.numba_.packed import LAYOUTS, PackedMatrix, code_at, interleave
from minillm.backends.numba_.steps import round_by_all, round_by_one
from minillm.backends.numba_.team import set_threads, threads
from minillm.bench import kernels
from minillm.bench.machine import best_of, kept_machine
from minillm.bench.rounds import curves, in_turn, medians
from minillm.bench.steps import pace, prefill_seconds
from minillm.costs.time import ridge_batch, roofline
from minillm.course.notebooks.figures import quote
from minillm.course.notebooks.model_at_hand import model_at_hand
from minillm.model.presets import preset

# %% [markdown]
# ## Lanes
#
# Sixteen rows of 32 codes become sixteen lanes of four words. Here codes are their own column number modulo 16, so the
# first lane can be read: columns 0, 2, 4, 6 in its lower half, from the lowest bits up, and 1, 3, 5, 7 in its upper one.

# %%
codes = np.tile(np.arange(32, dtype=np.uint8) % 16, (16, 1))
record = interleave(codes.reshape(1, 16, 1, 32), bits=4)[0, 0]
for word, lane in enumerate(record.view(np.uint32).reshape(4, 16)[:, 0]):
    print(f"row 0, word {word}: {lane:032b}  pairs:", *(f"{lane >> 4 * i & 0x000F000F:08x}" for i in range(4)))
found = [code_at(record.view(np.uint16), 0, column, 4) for column in range(32)]
print("read back:", found == list(codes[0]), "| bytes of a record in Q4_1:", LAYOUTS["Q4_1"].record_bytes)

# %% [markdown]
# ## The ladder
#
# One token through random weights in the shape of SmolLM2-135M. All matrices, one after another, so that each comes from
# memory as in a decode step; a loop over one matrix would measure the first caches. Three rounds; the bars are medians.

# %% tags=["timing"]
machine = kept_machine()
shape = preset("smollm2-135m")
weights = kernels.random_weights(shape)
rounds = [kernels.ladder(weights, machine, runs=1) for _ in range(3)]
steps = [row["step"] for row in rounds[0]]
speeds = {step: [rows[i]["bytes_per_s"] / 1e9 for rows in rounds] for i, step in enumerate(steps)}
rate = {step: median(found) for step, found in speeds.items()}
top = machine.read_bytes_per_s / 1e9
peak = machine.peak(kernels=True)
print(f"memory {top:.1f} GB/s; float32 products {machine.flops_per_s / 1e9:.0f} GFLOP/s, kernels at most {peak / 1e9:.0f}")
print(f"{'step':<16}{'GB/s':>8}{'tokens/s':>10}{'of bandwidth':>14}")
for step, found in rate.items():
    print(f"{step:<16}{found:8.1f}{1e9 * found / weights.nbytes:10.0f}{found / top:14.0%}")
factors = {
    "ladder": rate["fused"] / rate["row_by_row"],
    "lanes": rate["lanes_float"] / rate["by_blocks"],
    "vector": rate["vector_step"] / rate["two_cores"],
}
print(*(f"{name}: × {quote(name, f'{factor:.1f}')}" for name, factor in factors.items()), sep="; ")
pace_of_last = 1e9 * rate["fused"] / weights.nbytes
print(f"last step: {quote('tokens_per_s', f'{pace_of_last:.0f}')} tokens/s")

# %% tags=["timing", "drawing"]
fig, (axes,) = plots.figure(width=9)
plots.ceiling(axes, top, "ceiling: bandwidth, the fastest of three ways to read")
plots.bars(axes, [step.replace("_", "\n") for step in steps], list(rate.values()), "")
plots.spread_bars(axes, list(speeds.values()))
plots.check_ceiling("the ladder", list(rate.values()), [top] * len(steps))
axes.set_ylim(0, 1.15 * max(top, *rate.values()))
title = plots.finding(f"Eight steps are worth a factor of {factors['ladder']:.0f}", factors["ladder"] > 10)
plots.label(axes, title, "", "weights read (GB/s)")
plots.show(fig)

# %% [markdown]
# **The gap** to the ceiling is one call and one parallel region for each matrix (the last step has fewer), the unpacking of
# codes, and the beginning of each tape, when nothing has been asked for yet.
#
# ## What a second core is worth
#
# Two cores should help by two where the core is the limit, and by nothing where memory is. So the factor says which it is. A
# parallel region has a price, too: rounding the 576 numbers of one token is less work than waking a core.

# %% tags=["timing"]
x = np.ones((1, shape.d_model), np.float32)
cores, seconds = threads(), {}
for count in (1, cores):
    set_threads(count)
    seconds[count] = best_of(kernels.fused_pass(weights, x), runs=3)
set_threads(cores)
gbs = {count: weights.nbytes / t / 1e9 for count, t in seconds.items()}
second = gbs[cores] / gbs[1]
print(f"one core {quote('one_core', f'{gbs[1]:.1f}')} GB/s, all cores {quote('all_cores', f'{gbs[cores]:.1f}')} GB/s")
print(f"gain × {quote('second', f'{second:.2f}')}, {quote('of_bandwidth', f'{gbs[cores] / top:.0%}')} of the bandwidth")
print(plots.finding("memory is not the limit here", gbs[cores] < 0.8 * top))

h = operand(np.ones((1, shape.d_model), np.float32))
alone, shared = (best_of(lambda way=way: [way(h) for _ in range(200)], runs=3) / 200 for way in (round_by_one, round_by_all))
print(plots.finding("one token is rounded faster by one core", alone < shared))
alone, shared = quote("alone_us", f"{1e6 * alone:.1f}"), quote("shared_us", f"{1e6 * shared:.1f}")
print(f"rounding one token: one core {alone} µs, shared {shared} µs")

one = weights.layers[0]["gate"][1]
hot = one.nbytes / (best_of(lambda: [linear(x, one) for _ in range(50)], runs=3) / 50) / 1e9
print(f"one matrix in a loop: {quote('hot', f'{hot:.1f}')} GB/s; ", end="")
print("all layers, one call each:", quote("cold", f"{rate['prefetched']:.1f}"), "GB/s")

# %% [markdown]
# ## Two ceilings
#
# With $n$ tokens a step the weights are still read once. The slope is bandwidth, the flat line arithmetic: the fastest
# instruction of this machine, measured in registers. The other way, dequantize a band and multiply floats, pays for unpacking
# at every size. Three rounds, medians.

# %% tags=["timing"]
batches = (1, 2, 4, 8, 16, 32, 128)
many = [kernels.many_tokens(weights, batches, runs=1) for _ in range(3)]
flops = 2 * (weights.weights - shape.vocab_size * shape.d_model)
moved = flops / 2 * 5 / 8


def ceiling(n):  # -> tokens/s
    return roofline(n * flops / moved, peak, machine.read_bytes_per_s) / flops


def rates_of(key):  # -> for each batch, tokens/s of three rounds
    return [[n / found[key][i] for found in many] for i, n in enumerate(batches)]


found = {"packed, integers (tile.py)": rates_of("packed_s"), "dequantized band, floats": rates_of("dequantized_s")}

# %% tags=["timing", "drawing"]
fig, (axes,) = plots.figure(width=8)
plots.log_scales(axes, batches)
bound = [ceiling(n) for n in batches]
axes.plot(batches, bound, color="black", linestyle="--", label="ceiling: min(bandwidth / bytes · n, peak FLOP/s / FLOPs)")
for i, (name, runs) in enumerate(found.items()):
    plots.series(axes, i, batches, medians(runs), name)
    plots.spread(axes, batches, runs)
    plots.check_ceiling(name, medians(runs), bound)
bend = ridge_batch(peak, machine.read_bytes_per_s, 5 / 8)
packed, floats = map(medians, found.values())
gain = max(packed) / packed[0]
title = plots.finding(f"The same read serves more tokens: {gain:.1f} times the throughput", gain > 1.5 and packed[-1] > packed[0])
plots.label(axes, title, "tokens in a step", "throughput of all layers' products (tokens/s)")
marks = [m * 10**e for e in range(1, 6) for m in (1, 3) if min(floats) / 2 < m * 10**e < 2 * max(bound)]
plots.log_heights(axes, marks, min(floats) / 2, max(bound) * 4)
axes.legend(frameon=False, loc="upper left")
plots.show(fig)
print(f"the roof bends at {quote('bend', f'{bend:.0f}')} tokens; from 1 token to the best size × {quote('many', f'{gain:.1f}')}")
print(f"packed against dequantized at 128 tokens: × {quote('packed_128', f'{packed[-1] / floats[-1]:.1f}')}")

# %% [markdown]
# **The gap** is widest where the ceilings meet: there memory and multipliers both matter, and neither waits for the other
# perfectly. To the right it is unpacking, the scaling of sums in float32 after every block, and a peak that the matrix unit
# reaches only with nothing else to do.
#
# ## The model: TTFT and throughput
#
# The same file, the same 4-bit weights, the same backend and attention; only the products are exchanged. Off: compiled plain
# loops (`plain.py`). On: the kernels of this lesson, a fused half layer in one call. NumPy, which keeps float32 weights and
# hands products to BLAS, is printed beside them as the readable way: it differs in more than one thing.

# %% tags=["timing"]
llm = model_at_hand("numba")
config, ops = llm.config, llm.transformer.ops


def times(x, weight, bias=None):  # a product by plain loops
    if not isinstance(weight, PackedMatrix):
        return ops.linear(x, weight, bias)
    y = plain(np.ascontiguousarray(x), weight)
    return y if bias is None else y + bias


off_ops = replace(
    ops,
    linear=times,
    add_linear=lambda x, h, weight: x + times(h, weight),
    attention_inputs=partial(layers.attention_inputs, linear=times),
    add_feed_forward=partial(layers.add_feed_forward, linear=times),
    run_layers=layers.run_layers,
)
off, on = "off: plain loops", "on: packed kernels"
models = {off: copy.copy(llm.transformer), on: llm.transformer}
models[off].ops = off_ops


lengths = [n for n in (32, 64, 128) if n < config.context_length]
waits = curves({name: partial(prefill_seconds, model) for name, model in models.items()}, lengths)
runs = in_turn(models, 3, lambda name: pace(llm, models[name], 32))
paces = {name: [speed for speed, _ in found] for name, found in runs.items()}
print("same tokens:", runs[off][0][1] == runs[on][0][1])
readable = model_at_hand("numpy")
beside = pace(readable, readable.transformer, 32)
print(
    f"NumPy, float32 (readable): {quote('numpy_pace', f'{beside[0]:.0f}')} tokens/s; same tokens: {beside[1] == runs[on][0][1]}"
)

# %% tags=["timing", "drawing"]
fig, (left, right) = plots.figure(2)
least = (lengths, [config.prefill_flops(n) / peak for n in lengths], "floor: prefill FLOPs / peak FLOP/s")
found = {name: (lengths, medians(each)) for name, each in waits.items()}
shorter = found[off][1][-1] / found[on][1][-1]
title = plots.finding(f"At {lengths[-1]} tokens TTFT is {shorter:.0f} times shorter", shorter > 2)
plots.ttft_plot(left, found, title, bound=least)
for found in waits.values():
    plots.spread(left, lengths, found, 1e3)
middle = {name: median(found) for name, found in paces.items()}
faster = middle[on] / middle[off]
most = machine.read_bytes_per_s / config.decode_bytes(44, 1, 5, 2)
title = plots.finding(f"Decode is {faster:.1f} times faster", faster > 1.1)
plots.throughput_plot(right, middle, title, (most, "ceiling: bandwidth / bytes of a token"))
plots.spread_bars(right, list(paces.values()))
plots.show(fig)
print(f"TTFT × {quote('ttft_gain', f'{shorter:.0f}')}; decode × {quote('decode_gain', f'{faster:.1f}')}, "
      f"{quote('on_pace', f'{middle[on]:.0f}')} tokens/s of at most {quote('most', f'{most:.0f}')}")  # fmt: skip

# %% [markdown]
# **The gap.** Left, to the floor: attention and norms in float32, and a peak that nothing but the matrix unit has. Right, to the
# ceiling: attention, sampling, Python between steps, and weights that the file keeps in more than 5 bits.
#
# ## Try it
#
# Which machine would you buy? Predict where a step turns from memory to arithmetic, then move. (Needs `ipywidgets`.)

# %% tags=["skip-execution"]
from ipywidgets import interact


@interact(gigabytes_per_s=(10, 800, 10), gflops=(100, 8000, 100), bits=[32, 16, 8, 5, 4], batch=(1, 128, 1))
def machine_of(gigabytes_per_s=50, gflops=400, bits=5, batch=1):
    n, per_token = batch, 2 * shape.matrix_parameters()
    most = roofline(2 * n / (bits / 8), gflops * 1e9, gigabytes_per_s * 1e9)
    bend = ridge_batch(gflops * 1e9, gigabytes_per_s * 1e9, bits / 8)
    print(f"at most {most / per_token:,.0f} tokens/s; the roof bends at {bend:.1f} tokens a step")
