# %% [markdown]
# # 11 · CPU kernels: from a naive loop to the speed of memory
#
# The lesson ([11_cpu_kernels.md](../lessons/11_cpu_kernels.md)) claims: one token is bound by memory, many by arithmetic;
# between a plain loop and either ceiling lies a factor that layout, lanes, threads and prefetch make up. We measure the
# ceilings, climb the ladder, and then let a model run on NumPy and on the result.

# %%

import numpy as np

from minillm import SamplingParams, plots
from minillm.backends.numba_.packed import LAYOUTS, code_at, interleave
from minillm.bench import kernels
from minillm.bench.machine import best_of, measure_machine
from minillm.costs.time import ridge_batch, roofline
from minillm.course.notebooks.model_at_hand import model_at_hand
from minillm.metrics.events import EventLog, tpot
from minillm.model.generate import generate_tokens
from minillm.model.presets import preset
from minillm.model.transformer import Segment

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
# One token through random weights in the shape of SmolLM2-135M. All matrices, one after another, so that each comes cold
# from memory; a loop over one matrix would measure the cache.

# %% tags=["timing"]
machine = measure_machine(megabytes=256)
shape = preset("smollm2-135m")
weights = kernels.random_weights(shape)
ladder = kernels.ladder(weights, machine, runs=3)
print(f"memory {machine.read_bytes_per_s / 1e9:.1f} GB/s, float32 products {machine.flops_per_s / 1e9:.0f} GFLOP/s")
print(f"{'step':<16}{'Gweights/s':>12}{'GB/s':>8}{'tokens/s':>10}{'of bandwidth':>14}")
for row in ladder:
    print(f"{row['step']:<16}{row['weights_per_s'] / 1e9:12.1f}{row['bytes_per_s'] / 1e9:8.1f}{row['tokens_per_s']:10.0f}"
          f"{row['share_of_bandwidth']:14.0%}")  # fmt: skip

# %% tags=["timing", "drawing"]
fig, (axes,) = plots.figure(width=9)
plots.ceiling(axes, machine.read_bytes_per_s / 1e9, "ceiling: bandwidth, measured by reading")
plots.bars(axes, [row["step"].replace("_", "\n") for row in ladder], [row["bytes_per_s"] / 1e9 for row in ladder], "")
gain = ladder[-1]["tokens_per_s"] / ladder[0]["tokens_per_s"]
axes.set_ylim(0, 1.15 * max(machine.read_bytes_per_s / 1e9, *(row["bytes_per_s"] / 1e9 for row in ladder)))
plots.label(axes, f"Eight steps are worth a factor of {gain:.0f}", "", "weights read (GB/s)")
plots.show(fig)

# %% [markdown]
# **The gap** to the ceiling is made of one call and one parallel region for each matrix (which the last step halves), and
# of the moments at the beginning of each tape when nothing has been asked for yet.
#
# ## Two ceilings
#
# With $n$ tokens a step the weights are still read once. The slope is bandwidth; the flat lines are arithmetic. An
# instruction does 16 products of float32 or 32 of 16-bit integers, so the packed path has a roof twice as high. The other
# way, dequantize a band and multiply floats, pays for unpacking at every size.

# %% tags=["timing"]
batches = (1, 2, 4, 8, 16, 32, 128)
many = kernels.many_tokens(weights, batches)
flops = 2 * (weights.weights - shape.vocab_size * shape.d_model)
moved = flops / 2 * 5 / 8


def ceiling(n, peak):
    return n / (n * flops / roofline(n * flops / moved, peak, machine.read_bytes_per_s))

# %% tags=["timing", "drawing"]
fig, (axes,) = plots.figure(width=8)
plots.log_scales(axes, batches)
axes.plot(batches, [ceiling(n, 2 * machine.flops_per_s) for n in batches], color="black", linestyle="--",
          label="ceiling: min(bandwidth / bytes · n, 2 × float32 FLOP/s / FLOPs)")  # fmt: skip
axes.plot(batches, [ceiling(n, machine.flops_per_s) for n in batches], color="grey", linestyle=":",
          label="the same with float32 products")  # fmt: skip
for i, (name, key) in enumerate([("packed, integers (tile.py)", "packed_s"), ("dequantized band, floats", "dequantized_s")]):
    plots.series(axes, i, batches, [n / t for n, t in zip(batches, many[key], strict=True)], name)
bend = ridge_batch(2 * machine.flops_per_s, machine.read_bytes_per_s, 5 / 8)
won = f"from {many['crossover']} tokens on" if many["crossover"] else "at no size"
plots.label(axes, f"The roof bends at {bend:.0f} tokens; floats win {won}", "tokens in a step", "all layers' products (tokens/s)")
axes.legend(frameon=False, loc="lower right")
plots.show(fig)

# %% [markdown]
# **The gap** is widest where the ceilings meet: there memory and multipliers both matter, and neither waits for the other
# perfectly. To the right it is unpacking, and the scaling of sums in float32 after every block.
#
# ## The model: TTFT and throughput
#
# The same file, the same tokens; `numpy` keeps float32 weights and hands products to BLAS, `numba` keeps 4 bits.

# %% tags=["timing"]
engines = {name: model_at_hand(name) for name in ("numpy", "numba")}
config = engines["numpy"].config


def ttft_s(model, n):
    ids = np.random.default_rng(n).integers(0, config.vocab_size, n)
    return best_of(lambda: model.forward([Segment(ids, 0, model.new_cache())]), runs=2)


def decode_tokens_per_s(llm, prompt=32, new=24):
    log, ids = EventLog(), np.random.default_rng(0).integers(0, config.vocab_size, prompt).tolist()
    for _ in range(2):  # the first time warms up
        sequence, log = llm.sequence(0, ids, SamplingParams(max_tokens=new, ignore_eos=True)), EventLog()
        sequence.cache = llm.transformer.new_cache()
        for _ in generate_tokens(llm.transformer, (), [sequence], log):
            pass
    return 1 / tpot(log, 0), sequence.token_ids


lengths = [n for n in (32, 128, 384) if n < config.context_length]
waits = {name: (lengths, [ttft_s(llm.transformer, n) for n in lengths]) for name, llm in engines.items()}
paces = {name: decode_tokens_per_s(llm) for name, llm in engines.items()}
print("same tokens:", paces["numpy"][1] == paces["numba"][1])

# %% tags=["timing", "drawing"]
fig, (left, right) = plots.figure(2)
bound = (lengths, [config.prefill_flops(n) / (2 * machine.flops_per_s) for n in lengths], "ceiling: FLOPs / (2 × FLOP/s)")
gain = waits["numpy"][1][-1] / waits["numba"][1][-1]
plots.ttft_plot(left, waits, f"At {lengths[-1]} tokens TTFT is {gain:.1f} times shorter", bound=bound)
gain = paces["numba"][0] / paces["numpy"][0]
tops = {bits: machine.read_bytes_per_s / config.decode_bytes(44, 1, bits, 4) for bits in (32, 5)}
plots.ceiling(right, tops[32], "ceiling in float32: bandwidth / bytes")
plots.throughput_plot(right, {name: pace for name, (pace, _) in paces.items()}, f"Decode is {gain:.1f} times faster",
                      (tops[5], "ceiling in 5 bits: bandwidth / bytes"))  # fmt: skip
plots.show(fig)

# %% [markdown]
# **The gap** of Numba to its ceiling: attention, sampling and Python between the halves of a layer, and weights that the
# file keeps in more than 5 bits. NumPy is nearer to its own, lower one: a large read hides everything else.
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
