# %% [markdown]
# # 03 · FlashAttention: the matrix that is never written
#
# The lesson ([03_flash_attention.md](../lessons/03_flash_attention.md)) claims: attention waits for memory, because it
# writes a matrix of scores and reads it back; tiles and an online softmax make that unnecessary; and the answer stays
# the same. We count what is moved, then measure time and memory, then let a model speak with one and the other.

# %%
import copy
import time
import tracemalloc

import numpy as np

from minillm import SamplingParams, plots
from minillm.attention.flash import flash1_head, flash2_head, flash_attention
from minillm.attention.mask import Mask
from minillm.attention.naive import attention
from minillm.attention.traffic import measure, standard_head, tile_walk
from minillm.attention.traffic_formulas import flash1_moved, flash2_moved, gpt2_medium_table, standard_moved
from minillm.backends import get_backend
from minillm.bench.machine import best_of, measure_machine
from minillm.course.notebooks.model_at_hand import model_at_hand
from minillm.metrics.events import EventLog, tpot
from minillm.model.generate import generate_tokens
from minillm.model.transformer import Segment


def draw_qkv(n, heads=1, d=64, seed=0):
    return (np.random.default_rng([seed, i]).standard_normal((n, heads, d), np.float32) for i in range(3))


# %% [markdown]
# ## The same answer
#
# Three ways to compute one thing: the whole matrix, and tiles in either order. Floats add up in another order, so the
# last bits differ.

# %%
q, k, v = draw_qkv(500, heads=3)
exact = attention(q, k, v)
for name, head in [("FlashAttention-1", flash1_head), ("FlashAttention-2", flash2_head)]:
    out, lse = flash_attention(q, k, v, head=head)
    print(f"{name}: largest difference {np.abs(out - exact).max():.1e}")

# %% [markdown]
# ## The walk over the tiles
#
# `tile_walk` runs the real loops on arrays that note every access. Each square is one pair of tiles, the number says
# when it was visited; light squares are never visited, since the mask hides them. Below each, what travels: FA-1
# (K, V outside) brings every row's output in and out again and again, FA-2 (Q outside) writes it once.


# %%
def draw_walk(axes, head, title, n=6, block=64):
    """Squares in the order of the visits, and what each step moves."""
    steps = [s for s in tile_walk(head, n * block, n * block, 64, block, block, causal=True) if s.columns]
    axes.set_xlim(0, n)
    axes.set_ylim(n, 0)
    for when, step in enumerate(steps):
        x, y = step.columns.start // block, step.rows.start // block
        shade = 0.95 - 0.6 * when / len(steps)
        axes.add_patch(plots.square(x, y, grey=shade))
        axes.text(x + 0.5, y + 0.5, when + 1, ha="center", va="center", color="black" if shade > 0.6 else "white")
    stored = sum(step.stores["out"] for step in steps) // (block * 64)
    plots.label(axes, f"{title}: {stored} stores of an output tile", "tile of keys and values", "tile of queries")


fig, (left, right) = plots.figure(2, width=5)
draw_walk(left, flash1_head, "FlashAttention-1")
draw_walk(right, flash2_head, "FlashAttention-2")
plots.show(fig)

# %% [markdown]
# ## What is moved
#
# Counted on those arrays, and by the formulas of the lesson. They agree to the element; the test suite insists.

# %%
print(f"{'N':>6}{'standard':>14}{'FA-1':>12}{'FA-2':>12}   elements moved by one head, d = 64, tiles of 128, no mask")
for n in (128, 512, 2048):
    counts = [measure(head, n, n, 64, 128, 128).moved for head in (standard_head, flash1_head, flash2_head)]
    formulas = [standard_moved(n, n, 64), flash1_moved(n, n, 64, 128, 128), flash2_moved(n, n, 64, 128, 128)]
    print(f"{n:6}" + "".join(f"{c:>{w},}" for c, w in zip(counts, (14, 12, 12), strict=True)), "=", formulas == counts)
print()
for row in gpt2_medium_table():
    moved = f"{row['gb']:6.1f} GB, {row['times_fewer_bytes']:4.1f} × fewer" if row["gb"] else " " * 24
    print(f"{row['what']:46}{moved}   {row['gflop']:8.1f} GFLOP, × {row['times_flop']:.2f}")

# %% [markdown]
# The last lines are the paper's GPT-2 medium: about nine times fewer bytes for a few more FLOPs. Its bytes were measured
# on a GPU, forward and backward; ours are counted, forward. Compare the ratios within a group, not across.
#
# ## Bytes and time against N
#
# Left: bytes, quadratic for both, apart by a constant. Right: measured time, with the floor that arithmetic sets
# (visible pairs only). "NumPy" are the readable loops; "Numba" the same loops, compiled.

# %% tags=["timing"]
machine = measure_machine(megabytes=256)
fast = get_backend("numba")
fast.attention(*draw_qkv(64))  # compiles, once
sizes = [128, 256, 512, 1024, 2048]
ways = {
    "naive, NumPy": attention,
    "flash, NumPy": lambda q, k, v: flash_attention(q, k, v, block_q=128, block_k=256)[0],
    "flash, Numba": fast.attention,
}
inputs = {n: tuple(draw_qkv(n)) for n in sizes}
times = {name: [best_of(lambda f=f, n=n: f(*inputs[n]), runs=3) for n in sizes] for name, f in ways.items()}
floor = [4 * 64 * Mask(n, n).pairs() / machine.flops_per_s for n in sizes]

# %% tags=["timing", "drawing"]
fig, (left, right) = plots.figure(2)
moved = {
    "standard": [4 * standard_moved(n, n, 64) for n in sizes],
    "FlashAttention-1": [4 * flash1_moved(n, n, 64, 128, 128, causal=True) for n in sizes],
    "FlashAttention-2": [4 * flash2_moved(n, n, 64, 128, 128, causal=True) for n in sizes],
}
least = [4 * 4 * n * 64 for n in sizes]
plots.log_scales(left, sizes)
left.plot(sizes, [b / 1e6 for b in least], color="black", linestyle="--", label="floor: Q, K, V, O once")
for i, (name, values) in enumerate(moved.items()):
    plots.series(left, i, sizes, [b / 1e6 for b in values], name)
ratio = moved["standard"][-1] / moved["FlashAttention-2"][-1]
plots.label(left, f"FlashAttention-2 moves {ratio:.0f} times fewer bytes", "tokens N", "moved per head (MB)")
left.legend(frameon=False)
plots.log_scales(right, sizes)
right.plot(sizes, [1e3 * t for t in floor], color="black", linestyle="--", label="floor: FLOPs / FLOP/s")
for i, (name, values) in enumerate(times.items()):
    plots.series(right, i, sizes, [1e3 * t for t in values], name)
gain = times["naive, NumPy"][-1] / times["flash, Numba"][-1]
plots.label(right, f"At N = {sizes[-1]:,} the compiled tiles are {gain:.0f} times faster", "tokens N", "time, one head (ms)")
right.legend(frameon=False)
plots.show(fig)

# %% [markdown]
# **The gap** above the floor is made of exponentials (one for each pair, on units that do nothing else), of masks on the
# diagonal, and for NumPy of a Python loop that pays some microseconds for every tile. A large tile hides that, until it
# no longer fits the cache.
#
# ## Memory
#
# The peak of what each run allocates beside its inputs. The matrix of scores grows with N², a tile does not grow.


# %% tags=["timing"]
def peak_bytes(work):
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


peaks = {name: [peak_bytes(lambda f=f, n=n: f(*inputs[n])) for n in sizes] for name, f in ways.items()}

# %% tags=["timing", "drawing"]
fig, (axes,) = plots.figure()
plots.log_scales(axes, sizes)
axes.plot(sizes, [4 * n * 64 / 1e6 for n in sizes], color="black", linestyle="--", label="floor: the output, 4·N·d bytes")
for i, (name, values) in enumerate(peaks.items()):
    plots.series(axes, i, sizes, [b / 1e6 for b in values], name)
share = peaks["flash, Numba"][-1] / peaks["naive, NumPy"][-1]
title = f"At N = {sizes[-1]:,} flash takes {share:.1%} of the memory of naive"
plots.label(axes, title, "tokens N", "peak memory of one head (MB)")
axes.legend(frameon=False)
plots.show(fig)

# %% [markdown]
# ## Does the model notice? TTFT and throughput
#
# The same weights and the same layers, all in NumPy; only `attention` is exchanged. TTFT parts as prompts grow, since the
# scores grow with the square of the prompt and all else in proportion to it. Decode has one query: no matrix to save.

# %% tags=["timing"]
llm = model_at_hand()
config = llm.config


def with_attention(function):
    """The model, with another attention."""
    model = copy.copy(llm.transformer)
    model.ops = get_backend("numpy").with_attention(function)
    return model


def ttft_s(model, n):
    ids = np.random.default_rng(n).integers(0, config.vocab_size, n)
    return best_of(lambda: model.forward([Segment(ids, 0, model.new_cache())]), runs=2)


def decode_tokens_per_s(model, prompt, new=12):
    log, ids = EventLog(), np.random.default_rng(0).integers(0, config.vocab_size, prompt).tolist()
    sequence = llm.sequence(0, ids, SamplingParams(max_tokens=new, ignore_eos=True))
    sequence.cache = model.new_cache()
    for _ in generate_tokens(model, (), [sequence], log):
        pass
    return 1 / tpot(log, 0), sequence.token_ids


models = {"naive": with_attention(attention), "flash": with_attention(ways["flash, NumPy"])}
longest = min(1024, config.context_length - 32)
lengths = [longest // 8, longest // 4, longest // 2, longest]
waits = {name: (lengths, [ttft_s(model, n) for n in lengths]) for name, model in models.items()}
paces = {name: decode_tokens_per_s(model, longest) for name, model in models.items()}
print("same tokens:", paces["naive"][1] == paces["flash"][1])

# %% tags=["timing", "drawing"]
fig, (left, right) = plots.figure(2)
bound = [config.prefill_flops(n) / machine.flops_per_s for n in lengths]
saved = 1 - waits["flash"][1][-1] / waits["naive"][1][-1]
title = f"Flash saves {saved:.0%} of the wait at {longest:,} tokens"
plots.ttft_plot(left, waits, title, bound=(lengths, bound, "ceiling: prefill FLOPs / FLOP/s"))
top = machine.read_bytes_per_s / config.decode_bytes(longest, 1, 32, 4)
speeds = {name: pace for name, (pace, _) in paces.items()}
plots.throughput_plot(right, speeds, "In decode there is no matrix to save", (top, "ceiling: bandwidth / bytes per token"))
plots.show(fig)

# %% [markdown]
# **The gap** to the ceiling of TTFT: norms, rotations and activations between the matrix products, which NumPy computes
# in passes of their own. To that of decode: some hundred small calls a token, and for flash a Python loop over heads
# and tiles on top: readable, not fast. Lesson 11 compiles it.
#
# ## FlashAttention-3: fewer bits, and no waiting
#
# 8-bit floats have three bits of mantissa. Scales per tile and a random rotation win some of it back; beside it the
# figures of the paper, which reports 2.6 times less error than its baseline.

# %%
from minillm.attention.fp8_error import fp8_error_table, report

print(report(fp8_error_table(n=1024, d=64)))

# %% [markdown]
# And the pipeline: while one group of warps computes exponentials, the other multiplies.

# %%
from minillm.attention.pipeline import gantt, h100_costs, schedule, totals

costs = h100_costs(128)
for kind in ("sequential", "ping-pong"):
    print(f"{kind}\n{gantt(schedule(kind, 4, costs))}")
print({kind: round(t, 1) for kind, t in totals(32, costs).items()}, "(32 tiles, in units of one matrix product)")

# %% [markdown]
# ## Try it
#
# How large should a tile be? Predict, then move. (Needs `ipywidgets`.)

# %% tags=["skip-execution"]
from ipywidgets import interact


@interact(n=[512, 1024, 2048], block_q=[16, 32, 64, 128, 256], block_k=[16, 32, 64, 128, 256, 512])
def tile(n=1024, block_q=64, block_k=128):
    start = time.perf_counter()
    flash_attention(*draw_qkv(n), block_q=block_q, block_k=block_k)
    took = time.perf_counter() - start
    print(f"{1e3 * took:.1f} ms, {flash2_moved(n, n, 64, block_q, block_k, causal=True):,} elements moved")
