# %% [markdown]
# # 03 · FlashAttention: the matrix that is never written
#
# The lesson ([03_flash_attention.md](../lessons/03_flash_attention.md)) claims: attention waits for memory, because it
# writes a matrix of scores and reads it back; tiles and an online softmax make that unnecessary; and the answer stays
# the same. We count what is moved, then measure time and memory of two compiled kernels that differ in this one point, then
# run a model with one and the other.

# %%
import copy
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median

import numpy as np
from numba import njit

from minillm import plots
from minillm.attention.flash import flash1_head, flash2_head, flash_attention
from minillm.attention.naive import attention
from minillm.attention.traffic import measure, standard_head, tile_walk
from minillm.attention.traffic_formulas import (
    block_sizes,
    flash1_moved,
    flash2_moved,
    gpt2_medium_table,
    head_traffic,
    rows_per_tile,
    standard_moved,
    tile_bytes,
)
from minillm.backends import get_backend
from minillm.backends.numba_.loops import ADD, FRESH, VECTORS, outer_products
from minillm.backends.numba_.online import KEYS, LOG2E
from minillm.backends.numba_.prefill import BLOCK, TILE_ROWS, new_scratch, queries_per_tile
from minillm.backends.numba_.simd import add, exp2, load, max_of, maximum, mul, splat, store, sum_of
from minillm.backends.numba_.team import threads
from minillm.bench.machine import kept_machine
from minillm.bench.rounds import curves, in_turn, medians
from minillm.bench.steps import pace, prefill_seconds
from minillm.course.notebooks.figures import quote
from minillm.course.notebooks.model_at_hand import model_at_hand


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
    expected = {flash1_head: n * (n + 1) // 2, flash2_head: n}[head]  # each visit of a tile, or each row of tiles once
    title = plots.finding(f"{title}: {stored} stores of an output tile", stored == expected, counted=True)
    plots.label(axes, title, "tile of keys and values", "tile of queries")
    return stored


fig, (left, right) = plots.figure(2, width=5)
stores = draw_walk(left, flash1_head, "FlashAttention-1"), draw_walk(right, flash2_head, "FlashAttention-2")
plots.show(fig)
print(f"stores of an output tile: FA-1 {quote('stores_1', stores[0])}, FA-2 {quote('stores_2', stores[1])}")

# %% [markdown]
# There is no gap here: both are counts. FA-1 stores a row of output tiles again for each column that it sees, 1 + 2 + … + 6;
# FA-2 stores each once.
#
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

example = {
    "standard": standard_moved(8192, 8192, 64),
    "fa1": flash1_moved(8192, 8192, 64, 128, 128),
    "fa2": flash2_moved(8192, 8192, 64, 128, 128),
}
print("\nthe head of the lesson, N = 8,192, in 16 bits (MiB):")
for name, elements in example.items():
    print(f"{name:10}", quote(f"mib_{name}", f"{2 * elements / 2**20:.0f}"))
tall = rows_per_tile(8192, 128, 228 * 1024)
square = max(b for b in range(1, tall) if tile_bytes(b, b, 128) <= 228 * 1024)
print("\nthe same with d = 128 and tiles that fill the 228 KiB of a multiprocessor of an H100 (MiB):")
for rows, keys in ((square, square), (tall, 16)):
    print(f"{rows} rows, {keys:3} keys: {sum(head_traffic(8192, 8192, 128, rows)) / 2**20:.0f}")

# %% [markdown]
# The lines between are the paper's GPT-2 medium: about nine times fewer bytes for a few more FLOPs. Its bytes were measured
# on a GPU, forward and backward; ours are counted, forward. Compare the ratios within a group, not across.
#
# **When it hurts.** A tile needs $B > d/2$ rows, or its traffic is more than that of the matrix it avoids. A wide head in a small
# fast memory has fewer: heads of 256 in 64 KiB of 16-bit numbers leave tiles of 32 rows.

# %%
print(f"{'fast memory':>12}{'tile':>6}{'standard':>14}{'FA-2':>14}   one head of 256, N = 1,024")
for kib in (64, 128, 256, 512, 1024):
    block_q, block_k = block_sizes(flash2_head, kib * 1024 // 2, 256)
    pair = standard_moved(1024, 1024, 256), measure(flash2_head, 1024, 1024, 256, block_q, block_k).moved
    print(f"{kib:8} KiB{block_q:6}{pair[0]:14,}{pair[1]:14,}   × {pair[1] / pair[0]:.2f}")
    if kib == 64:
        print(f"flash moves {quote('hurts', f'{pair[1] / pair[0]:.1f}')} times more")

# %% [markdown]
# ## Two compiled kernels that differ in one point
#
# The backend has FlashAttention-2 compiled ([prefill.py](../minillm/backends/numba_/prefill.py)). Its opponent is made here,
# of the same inner loops (`outer_products`: six rows by 64 keys in registers) and the same 2^x: three kernels, one after
# another, that write S, turn it into P in place, and read P. Same mask, same threads, same float32.

# %% tags=["drawing"]
COLUMNS, LEAST = 16 * VECTORS, np.float32(-np.inf)


@njit(nogil=True, error_model="numpy")
def write_scores(s, q, k, width, first, last, hidden):
    """S = QKᵀ for rows first … last - 1, 6 × 64 scores at a time. k: tiles of 64 keys, turned."""
    d = len(k) // width
    for key in range(0, width, KEYS):
        for r in range(first, last, BLOCK):
            if key < r + BLOCK + hidden:
                for j in range(key, key + KEYS, COLUMNS):
                    outer_products(s, r * width + j, width, q, r * d, d, k, key * d + j - key, KEYS, d, BLOCK, VECTORS, FRESH)


@njit(nogil=True, error_model="numpy")
def write_weights(s, n_k, width, first, last, hidden):
    """P = softmax(S), row by row, in place."""
    for r in range(first, last):
        at, seen = r * width, min(n_k, r + 1 + hidden)
        stop = min(width, -(-(r // BLOCK * BLOCK + BLOCK + hidden) // KEYS) * KEYS)  # what the block of six rows has
        s[at + seen : at + stop] = LEAST
        top, total = splat(LEAST), splat(np.float32(0))
        for j in range(at, at + stop, 16):
            top = maximum(top, load(s, j))
        minus_m = splat(-max_of(top))
        for j in range(at, at + stop, 16):
            p = exp2(add(load(s, j), minus_m))
            store(s, j, p)
            total = add(total, p)
        share = splat(np.float32(1) / sum_of(total))
        for j in range(at, at + stop, 16):
            store(s, j, mul(load(s, j), share))


@njit(nogil=True, error_model="numpy")
def write_output(out, s, v, width, first, last, hidden):
    """O = PV for the same rows."""
    wide = len(v) // width
    for key in range(0, width, KEYS):
        for r in range(first, last, BLOCK):
            if key < r + BLOCK + hidden:
                for c in range(0, wide, COLUMNS):
                    at = r * wide + c
                    outer_products(out, at, wide, s, r * width + key, width, v, key * wide + c, wide, KEYS, BLOCK, VECTORS, ADD)


KEPT = {}


def matrix(*shape):
    """Room for the scores, kept between calls, as the allocator of a framework keeps it."""
    if KEPT.get("shape") != shape:
        KEPT.update(shape=shape, room=np.empty(shape, np.float32))
    return KEPT["room"]


def standard(q, k, v, causal=True):
    """Three kernels one after another, on all cores, with S and P in memory."""
    (n_q, heads, d), (n_k, kv_heads, _) = q.shape, k.shape
    rows, width, wide = -(-n_q // BLOCK) * BLOCK, -(-n_k // KEYS) * KEYS, -(-d // COLUMNS) * COLUMNS
    q_rows = np.zeros((heads, rows, d), np.float32)
    q_rows[:, :n_q] = q.transpose(1, 0, 2) * (LOG2E / np.float32(np.sqrt(d)))
    keys, values = np.zeros((kv_heads, width, d), np.float32), np.zeros((kv_heads, width, wide), np.float32)
    keys[:, :n_k], values[:, :n_k, :d] = k.transpose(1, 0, 2), v.transpose(1, 0, 2)
    keys = np.ascontiguousarray(keys.reshape(kv_heads, -1, KEYS, d).swapaxes(2, 3)).reshape(kv_heads, -1)
    s, out = matrix(heads, rows * width), np.zeros((heads, rows * wide), np.float32)
    hidden, group, values = n_k - n_q if causal else width, heads // kv_heads, values.reshape(kv_heads, -1)
    parts = [(h, r, min(r + TILE_ROWS, rows)) for r in range(0, rows, TILE_ROWS)[::-1] for h in range(heads)]
    with ThreadPoolExecutor(threads()) as pool:
        for work in (
            lambda h, a, b: write_scores(s[h], q_rows[h].reshape(-1), keys[h // group], width, a, b, hidden),
            lambda h, a, b: write_weights(s[h], n_k, width, a, b, hidden),
            lambda h, a, b: write_output(out[h], s[h], values[h // group], width, a, b, hidden),
        ):
            list(pool.map(lambda part, work=work: work(*part), parts))
    return out.reshape(heads, rows, wide)[:, :n_q, :d].transpose(1, 0, 2)


# %% [markdown]
# ## Bytes and time against N
#
# No mask on either side. Left: bytes, with tiles of 128: all quadratic, FA-2 below the standard way by a factor that nears
# 2B/d = 4 and grows no further. Right: time of one head, the median of three rounds, a bar from the fastest to the slowest.


# %% tags=["timing"]
def head_s(attend, n):  # -> seconds of one head over n tokens
    start = time.perf_counter()
    attend(*inputs[n])
    return time.perf_counter() - start


def size_by_size(ways, sizes):
    """curves(), one size after another: `standard` keeps room for the matrix of one size, and new room is slow at first."""
    each = [curves(ways, [n]) for n in sizes]
    return {name: [found[name][0] for found in each] for name in ways}


machine = kept_machine()
fast = get_backend("numba")
sizes = [256, 512, 1024, 2048, 4096]
inputs = {n: tuple(draw_qkv(n)) for n in sizes}
compiled = {
    "standard: S and P in memory": lambda q, k, v: standard(q, k, v, causal=False),
    "FlashAttention-2: tiles": lambda q, k, v: fast.flash_attention(q, k, v, causal=False)[0],
}


def untiled(q, k, v):  # as naive.py, without its mask
    s = q[:, 0] @ k[:, 0].T / np.float32(8)
    p = np.exp(s - s.max(axis=1, keepdims=True))
    return (p / p.sum(axis=1, keepdims=True)) @ v[:, 0]


readable = {
    "standard": untiled,
    "FlashAttention-2": lambda q, k, v: flash_attention(q, k, v, causal=False, block_q=128, block_k=256)[0],
}
small = tuple(draw_qkv(200, heads=2))
print("the two compiled kernels agree:", np.allclose(standard(*small), fast.attention(*small), atol=1e-5))
times = size_by_size({name: partial(head_s, attend) for name, attend in compiled.items()}, sizes)
floor = [4 * 64 * n * n / machine.peak(kernels=True) for n in sizes]
fewer = [a / b for a, b in zip(*(medians(times[name]) for name in compiled), strict=True)]
print("standard / flash, compiled:", *(f"{n:,}: {x:.2f}" for n, x in zip(sizes, fewer, strict=True)))
print(f"at N = 4,096: {quote('compiled_gain', f'{fewer[-1]:.1f}')} times")
slow, tiled = medians(runs for (runs,) in curves({name: partial(head_s, f) for name, f in readable.items()}, [2048]).values())
gain = slow / tiled
print(f"NumPy (readable, not fast), N = 2,048: standard / flash = {quote('readable_gain', f'{gain:.1f}')}")

# %% tags=["timing", "drawing"]
fig, (left, right) = plots.figure(2)
moved = {
    "standard": [4 * standard_moved(n, n, 64) for n in sizes],
    "FlashAttention-1": [4 * flash1_moved(n, n, 64, 128, 128) for n in sizes],
    "FlashAttention-2": [4 * flash2_moved(n, n, 64, 128, 128) for n in sizes],
}
least = [4 * 4 * n * 64 for n in sizes]
plots.log_scales(left, sizes)
left.plot(sizes, [b / 1e6 for b in least], color="black", linestyle="--", label="floor: Q, K, V, O once")
for i, (name, values) in enumerate(moved.items()):
    plots.series(left, i, sizes, [b / 1e6 for b in values], name)
    plots.check_floor(name, values, least)
ratios = [a / b for a, b in zip(moved["standard"], moved["FlashAttention-2"], strict=True)]
held = all(a < b <= 4 for a, b in zip(ratios, ratios[1:], strict=False)) and ratios[-1] > 3.5
title = plots.finding(f"FA-2 moves {ratios[-1]:.1f} times fewer bytes: near 2B/d = 4", held, counted=True)
plots.label(left, title, "tokens N", "moved per head (MB)")
plots.log_heights(left, [0.1, 1, 10, 100])
left.legend(frameon=False)
plots.log_scales(right, sizes)
right.plot(sizes, [1e3 * t for t in floor], color="black", linestyle="--", label="floor: FLOPs / peak FLOP/s")
for i, (name, found) in enumerate(times.items()):
    plots.series(right, i, sizes, [1e3 * t for t in medians(found)], name)
    plots.spread(right, sizes, found, 1e3)
    plots.check_floor(name, medians(found), floor)
title = plots.finding(f"Same loops, no matrix in memory: {fewer[-1]:.1f} times faster", fewer[-1] > 1.15)
plots.label(right, title, "tokens N", "time of one head (ms), compiled")
plots.log_heights(right, [0.1, 1, 10, 100])
right.legend(frameon=False)
plots.show(fig)

# %% [markdown]
# **The gap.** Left, above the floor: K and V, which FA-2 reads again for each tile of queries, and for the standard way four
# trips of the N × N matrix. Right: the floor takes the fastest instruction of this machine, which float32 cannot use; the
# rest is one exponential for each pair, turning the keys, and for the standard way the trips to memory (for small N: starting
# its threads from Python).
#
# ## Memory
#
# The peak of what each compiled run allocates beside its inputs. The matrix of scores grows with N², a tile does not grow.


# %% tags=["timing"]
def peak_bytes(work):
    KEPT.clear()
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


scratch = threads() * sum(part.nbytes for part in new_scratch(queries_per_tile(1), 1, 64))  # tracemalloc does not see Numba's
peaks = {name: [peak_bytes(lambda f=f, n=n: f(*inputs[n])) for n in sizes] for name, f in compiled.items()}
peaks["FlashAttention-2: tiles"] = [peak + scratch for peak in peaks["FlashAttention-2: tiles"]]

# %% tags=["timing", "drawing"]
fig, (axes,) = plots.figure()
plots.log_scales(axes, sizes)
output = [4 * n * 64 for n in sizes]
axes.plot(sizes, [b / 1e6 for b in output], color="black", linestyle="--", label="floor: the output, 4·N·d bytes")
for i, (name, values) in enumerate(peaks.items()):
    plots.series(axes, i, sizes, [b / 1e6 for b in values], name)
    plots.check_floor(name, values, output)
share = peaks["FlashAttention-2: tiles"][-1] / peaks["standard: S and P in memory"][-1]
title = plots.finding(f"At N = {sizes[-1]:,} flash takes {share:.1%} of the memory", share < 0.1)
plots.label(axes, title, "tokens N", "peak memory of one head (MB)")
plots.log_heights(axes, [0.1, 1, 10, 100])
axes.legend(frameon=False)
plots.show(fig)
print(f"flash / standard, memory: {quote('memory_share', f'{share:.1%}')}")

# %% [markdown]
# **The gap** above the floor: for flash the log-sum-exp of each row and one tile for each thread, which is why its curve is flat
# where N is small; for the standard way the matrix, 4·N² bytes.
#
# ## Does the model notice? TTFT and pace
#
# The same weights, the same compiled layers. In prefill only the kernel is exchanged: S and P in memory, or tiles. In decode
# there is one query, and no matrix to save; what helps is to share the keys among the cores (flash-decoding), so that is what is
# switched off and on there: one core reads all keys, or all cores do.

# %% tags=["timing"]
llm = model_at_hand("numba")
config = llm.config


def with_attention(function):
    """The model, with another attention."""
    model = copy.copy(llm.transformer)
    model.ops = fast.with_attention(function)
    return model


def matrix_or_one_core(q, k, v):
    return standard(q, k, v) if len(q) > 1 else fast.split_kv_attention(q, k, v, 1)[0]


models = {
    "off: matrix; one core reads K, V": with_attention(matrix_or_one_core),
    "on: tiles; all cores read": with_attention(fast.attention),
}
off, on = models
longest = min(1024, config.context_length - 32)
lengths = [longest // 8, longest // 4, longest // 2, longest]
waits = size_by_size({name: partial(prefill_seconds, model) for name, model in models.items()}, lengths)
runs = in_turn(models, 3, lambda name: pace(llm, models[name], longest))
print("same tokens:", runs[off][0][1] == runs[on][0][1])
paces = {name: [speed for speed, _ in found] for name, found in runs.items()}

# %% tags=["timing", "drawing"]
fig, (left, right) = plots.figure(2)
bound = [config.prefill_flops(n) / machine.peak(kernels=True) for n in lengths]
saved = 1 - medians(waits[on])[-1] / medians(waits[off])[-1]
title = plots.finding(f"Flash saves {saved:.0%} of the wait at {longest:,} tokens", saved > 0.05)
found = {name: (lengths, medians(runs)) for name, runs in waits.items()}
plots.ttft_plot(left, found, title, bound=(lengths, bound, "floor: prefill FLOPs / peak FLOP/s"))
for runs in waits.values():
    plots.spread(left, lengths, runs, 1e3)
top = machine.read_bytes_per_s / config.decode_bytes(longest, 1, 5, 2)
speeds = {name.replace(": ", "\n").replace("; ", "\n"): median(found) for name, found in paces.items()}
more = median(paces[on]) / median(paces[off]) - 1
title = plots.finding(f"All cores on K and V: decode {more:+.0%}", more > 0.05)
plots.throughput_plot(right, speeds, title, (top, "ceiling: bandwidth / bytes per token"))
plots.spread_bars(right, list(paces.values()))
plots.show(fig)
print(f"TTFT saved: {quote('ttft_saved', f'{saved:.0%}')}; decode: {quote('decode_gain', f'{more:+.0%}')}")

# %% [markdown]
# **The gap** to the floor of TTFT: the floor takes the matrix unit's peak for all FLOPs, and attention runs in float32; norms,
# rotations and rounding come on top. To the ceiling of the pace: some hundred calls a token from Python (the fused decode of
# lesson 11 is off here, since it would bypass what we exchange), and reading at less than full bandwidth.
#
# ## The fourth generation: which part of the work is the longest?
#
# The head of the lesson (N = 8,192, d = 64), one part of the work at a time, at published rates: H100 989 TFLOP/s, 3.35 TB/s,
# 3.9 T exponentials a second; B200 (as published in March 2026) 2,250 TFLOP/s, and as many exponentials a multiprocessor as
# before. Left: one bottleneck is taken away, and the next is the longest. Right: how many rescales are left if *acc* shrinks
# only where the maximum rose by more than a threshold (in powers of two). The 32 rows of a warp decide together.

# %%
pairs, us = 8192**2, 1e6
parts = {
    "bytes,\nmatrix": us * 2 * standard_moved(8192, 8192, 64) / 3.35e12,
    "bytes,\ntiles": us * 2 * flash2_moved(8192, 8192, 64, 128, 128) / 3.35e12,
    "products\nH100": us * 4 * 64 * pairs / 989e12,
    "exp\nH100": us * pairs / 3.9e12,
    "products\nB200": us * 4 * 64 * pairs / 2250e12,
    "exp\nB200": us * pairs / 3.9e12,
}
for name, t in parts.items():
    name = name.replace("\n", " ").replace(",", "")
    print(f"{name:16}{quote(name, f'{t:.0f}')} µs")


def left_over(scale, threshold, n=2048, tile=64):  # -> share of (warp, tile) that rescale, after the first tile
    q, k, _ = (x[:, 0] for x in draw_qkv(n))
    tops = (q @ k.T * np.float32(scale / 8 * np.log2(np.e))).reshape(n, -1, tile).max(axis=2)
    m, count = tops[:, 0], 0
    for top in tops.T[1:]:
        due = top > m + threshold
        count += due.reshape(-1, 32).any(axis=1).sum()
        m = np.where(np.repeat(due.reshape(-1, 32).any(axis=1), 32), np.maximum(m, top), m)
    return count / (n // 32 * (tops.shape[1] - 1))


def lazy_head(q, k, v, threshold=8.0, tile=64):  # the online softmax in powers of two, with a maximum that may be stale
    m, l, acc = np.full(len(q), -np.inf, np.float32), np.zeros(len(q), np.float32), np.zeros_like(q)
    for j in range(0, len(k), tile):
        s = q @ k[j : j + tile].T * np.float32(np.log2(np.e) / np.sqrt(q.shape[1]))
        m_new = np.where(s.max(axis=1) > m + threshold, np.maximum(m, s.max(axis=1)), m)
        alpha, p = np.exp2(m - m_new), np.exp2(s - m_new[:, None])
        m, l, acc = m_new, l * alpha + p.sum(axis=1), acc * alpha[:, None] + p @ v[j : j + tile]
    return acc / l[:, None]


q, k, v = (x[:, 0] for x in draw_qkv(512))
error = np.abs(lazy_head(3 * q, k, v) - flash_attention(3 * q[:, None], k[:, None], v[:, None], causal=False)[0][:, 0]).max()
print("a stale maximum changes the answer by less than 1e-5:", bool(error < 1e-5))

# %% tags=["drawing"]
fig, (left, right) = plots.figure(2)
plots.bars(left, list(parts), list(parts.values()), "µs")
held = parts["exp\nB200"] > parts["products\nB200"] and abs(parts["exp\nH100"] / parts["products\nH100"] - 1) < 0.1
title = plots.finding("Take one bottleneck away, and the next appears", held, counted=True)
plots.label(left, title, "", "time of one head (µs)")
thresholds = [0, 1, 2, 4, 8]
rest = {scale: [left_over(scale, t) for t in thresholds] for scale in (1, 2, 3)}
for i, (scale, shares) in enumerate(rest.items()):
    plots.series(right, i, thresholds, [100 * share for share in shares], f"scores with deviation {scale}")
right.set_xticks(thresholds, [str(t) for t in thresholds])
held = all(shares[-1] < 0.1 and shares == sorted(shares, reverse=True) for shares in rest.values())
title = plots.finding("A threshold of 2⁸ skips nine rescales in ten", held, counted=True)
plots.label(right, title, "threshold (powers of two)", "rescales that are left (%)")
plots.legend(right)
plots.show(fig)
left_at = {name: f"{rest[2][i]:.1%}" for name, i in (("rescales_0", 0), ("rescales_8", -1))}
print("scores with deviation 2, left at thresholds 0 and 8:", *(quote(name, text) for name, text in left_at.items()))

# %% [markdown]
# **The gap.** Left, each bar is a floor: a kernel that overlaps the parts takes the longest, kernels in turn take the sum, and
# the second-level cache serves most bytes of the tiles. Right: what is left are rows whose first tiles had low scores only.
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
