# %% [markdown]
# # 04 · PagedAttention: virtual memory for the KV cache
#
# The lesson ([04_paged_attention.md](../lessons/04_paged_attention.md)) claims: blocks of one size waste half a block per
# sequence instead of most of the memory; two sequences may own one block until one of them writes; and throughput grows
# because more requests fit. We watch a pool at work, count on real lengths, then measure what the look-ups cost.

# %%
import os
import time

import numpy as np

from minillm import SamplingParams, plots
from minillm.bench.machine import measure_machine
from minillm.bench.replay import waste, waste_table
from minillm.cache.block_pool import BlockPool
from minillm.cache.block_table import BlockTable
from minillm.cache.paged import PageStore
from minillm.costs.memory import kv_tokens
from minillm.course.notebooks.model_at_hand import model_at_hand
from minillm.load.profiles import draw, load_profile
from minillm.load.traces import TraceRequest, read_azure
from minillm.model.generate import generate_tokens
from minillm.model.presets import preset
from minillm.model.transformer import Segment

DASHED = {"color": "black", "linestyle": "--", "linewidth": 1.2}

# %% [markdown]
# ## Who owns which block
#
# Eight blocks of four tokens. Neighbours have come and gone, so the free ones are not in order, and nobody minds. A writes
# ten tokens, B is forked from it and goes on. Numbers in a square are positions; darker is owned by more.

# %%
pool = BlockPool(num_blocks=8, block_size=4)
for _ in range(8):
    pool.allocate()
for block in (0, 1, 4, 6, 3, 5, 2, 7):
    pool.free(block)


def draw_pool(axes, title, tables):
    """Blocks side by side, their slots from top to bottom, and below each its owners."""
    owners = {b: [name for name, t in tables.items() if b in t.blocks] for b in range(pool.num_blocks)}
    for block, names in owners.items():
        for slot in range(pool.block_size):
            axes.add_patch(plots.square(block, slot, grey=[0.95, 0.75, 0.5][len(names)]))
        held = {p % 4: p for n in names for p in range(tables[n].length) if tables[n].blocks[p // 4] == block}
        for slot, position in held.items():
            axes.text(block + 0.5, slot + 0.5, position, ha="center", va="center")
    axes.set_xlim(0, pool.num_blocks)
    axes.set_ylim(pool.block_size, 0)
    axes.set_xticks([b + 0.5 for b in owners], [f"{b}\n{' '.join(names) or '·'}" for b, names in owners.items()])
    axes.set_yticks([])
    axes.grid(False)
    plots.label(axes, title, "block, and its owners", "")


def told(tables):
    return ", ".join(f"{name}: {t.length} tokens, table {t.blocks}" for name, t in tables.items())

# %% tags=["drawing"]
fig, (first, second, third) = plots.figure(3, width=4.2, height=2.6)
a = BlockTable(pool)
a.append(10)
draw_pool(first, f"A: 10 tokens in {len(a.blocks)} blocks", {"A": a})
print("append 10:     ", told({"A": a}))

b = a.fork()
draw_pool(second, f"Fork: {8 - pool.num_free} blocks hold 2 × 10 tokens", {"A": a, "B": b})
print("fork:          ", told({"A": a, "B": b}))

slots, copies = b.append(1)
((source, target),) = copies
draw_pool(third, f"B writes: block {source} is copied to {target}", {"A": a, "B": b})
print("append 1 to B: ", told({"A": a, "B": b}), f"| copies {copies}, slot {slots}")
slots, copies = a.append(1)
print("append 1 to A: ", told({"A": a, "B": b}), f"| copies {copies}, slot {slots}: the last owner keeps the original")
plots.show(fig)

# %% [markdown]
# ## Waste, and how many fit
#
# Each request holds one more token with every decode step; what is reserved beyond that is waste, averaged over all steps.
# The lengths are those of conversations on Azure: the trace itself if `MINILLM_AZURE_TRACE` says where it lies, otherwise
# requests drawn from the project's own profile of it in `data/profiles`.

# %%
trace = os.environ.get("MINILLM_AZURE_TRACE")
profile = load_profile("azure_conv")
requests = read_azure(trace) if trace else draw(profile)
source = "of the trace itself" if trace else f"drawn from this project's profile of {profile['source']}"
print(f"{len(requests):,} requests {source}")
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
found = waste(requests, block_sizes=SIZES)
print(waste_table(found))

# %% [markdown]
# The memory on the right is what Llama-3-8B in 16 bits leaves for its cache on a card of 24 GB.

# %%
WAYS = {"reserve 8,192": "reserve 8192", "power of two": "power of two", "blocks of 16": "paged 16"}
mean = found["paged 16"]["mean_tokens_reserved"] * (1 - found["paged 16"]["waste"])  # tokens held
formulas = {"1 − n̄ / N": 1 - mean / 8192, "1/4": 0.25, "7.5 / (n̄ + 7.5)": 7.5 / (mean + 7.5)}

# %% tags=["drawing"]
fig, (left, right) = plots.figure(2)
for i, value in enumerate(formulas.values()):
    left.plot([i - 0.45, i + 0.45], [100 * value] * 2, **DASHED, zorder=3, label=None if i else "formula of the lesson")
names = [f"{way}\n{formula}" for way, formula in zip(WAYS, formulas, strict=True)]
plots.bars(left, names, [100 * found[way]["waste"] for way in WAYS.values()], "%")
title = f"Paging wastes {found['paged 16']['waste']:.1%} of the memory instead of {found['reserve 8192']['waste']:.0%}"
plots.label(left, title, "way of allocating", "share of reserved memory (%)")
plots.legend(left)

memory = kv_tokens(preset("llama-3-8b"), 24e9)
fits = {name: int(memory // found[way]["mean_tokens_reserved"]) for name, way in WAYS.items()}
plots.ceiling(right, memory / mean, f"ceiling: memory / mean length = {memory:,.0f} / {mean:,.0f} tokens")
plots.bars(right, list(fits), list(fits.values()), "requests")
title = f"{fits['blocks of 16']} chats fit where {fits['reserve 8,192']} could be promised the maximum"
plots.label(right, title, "way of allocating", "requests at once")
right.set_yticks(range(0, 50, 10))
right.set_ylim(0, memory / mean * 1.2)
for text in right.texts:
    text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})
plots.show(fig)

# %% [markdown]
# **The gap** between paging and the ceiling is half a block per request. But the ceiling is an average: nothing keeps all
# requests from growing long at once, and then a sequence is preempted. Reserving cannot fail in mid-answer. Power of two
# wastes more than the formula's 1/4 for a growing sequence: it reserves for the final length from the first step on.
#
# ## TTFT: what the table costs in prefill
#
# The same model, once with one array per sequence and once with pages of 16. The tokens are the same. The arithmetic is
# too, but the NumPy reference goes from page to page in Python; a compiled kernel does the same without that toll.

# %% tags=["timing"]
llm = model_at_hand("numpy")
config, model = llm.config, llm.transformer
machine = measure_machine(megabytes=256)
rng = np.random.default_rng(0)


def make_cache(kind, tokens, batch=1, size=16):
    """A batch of empty caches with room for so many tokens each."""
    if kind == "contiguous":
        return [model.new_cache() for _ in range(batch)]
    store = PageStore.for_model(config, batch * -(-tokens // size), size)
    return [store.new_cache() for _ in range(batch)]


def generate(kind, new=12):
    prompt = llm.chat([{"role": "user", "content": "Tell me a short story about a brave little fox."}])
    (cache,) = make_cache(kind, len(prompt) + new)
    sequence = llm.sequence(0, prompt, SamplingParams(max_tokens=new, ignore_eos=True), cache=cache)
    for _ in generate_tokens(model, (), [sequence]):
        pass
    return sequence.token_ids


def ttft_s(kind, n):
    ids = rng.integers(0, config.vocab_size, n)
    times = []
    for _ in range(2):
        (cache,) = make_cache(kind, n)
        start = time.perf_counter()
        model.forward([Segment(ids, 0, cache)])
        times.append(time.perf_counter() - start)
    return min(times)


print("same tokens:", generate("contiguous") == generate("paged"))
lengths = [64, 128, 256, 512]
waits = {kind: (lengths, [ttft_s(kind, n) for n in lengths]) for kind in ("contiguous", "paged")}

# %% [markdown]
# ## Throughput: at equal batch, and with equal memory
#
# The trace's requests at a sixteenth of their length, so that a laptop gets through: reserving means 512 tokens each, and
# the memory has room for two that reserve. How many fit in the other ways, the replay says; the rest is measured.

# %% tags=["timing"]
small = [TraceRequest(max(1, r.prompt // 16), max(1, r.output // 16)) for r in requests]
there = waste(small, reserve=512, block_sizes=(16,))
room = {"reserve": 2, "power of two": int(2 * there["power of two"]["fits"]), "blocks of 16": int(2 * there["paged 16"]["fits"])}
context = round(512 / there["paged 16"]["fits"] * (1 - there["paged 16"]["waste"]))
print(f"mean length {context} tokens; in {2 * 512:,} tokens of memory fit", room)


def step_s(kind, batch, context, size=16, steps=4):
    """One decode step of a batch, each with so much context: random keys and values, the time does not depend on them."""
    caches = make_cache(kind, context + steps + 1, batch, size)
    kv = rng.standard_normal((context, config.n_kv_heads, config.d_head), np.float32)
    for cache in caches:
        for layer in range(config.n_layers):
            cache.append(layer, kv, kv)
    times = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        model.forward([Segment([7], cache.length, cache) for cache in caches])
        times.append(time.perf_counter() - start)
    return min(times[1:])


batches = sorted({1, 2, 4, 8, *room.values()})
speeds = {kind: [n / step_s(kind, n, context) for n in batches] for kind in ("contiguous", "paged")}


def allowed_s(n):
    """A step reads weights and caches, and computes; it cannot take less than the slower of the two."""
    read_s = config.decode_bytes(context, n, 32, 4) / machine.read_bytes_per_s
    return max(read_s, n * config.decode_flops(context) / machine.flops_per_s)

# %% tags=["timing", "drawing"]
fig, (left, right) = plots.figure(2)
bound = [config.prefill_flops(n) / machine.flops_per_s for n in lengths]
slower = waits["paged"][1][-1] / waits["contiguous"][1][-1]
title = f"In NumPy, prefill through pages takes {slower:.1f} times as long"
plots.ttft_plot(left, waits, title, bound=(lengths, bound, "ceiling: prefill FLOPs / FLOP/s"))

steps = range(1, batches[-1] + 1)
formula = "ceiling: batch × bandwidth / bytes of a step, or arithmetic"
right.plot(steps, [n / allowed_s(n) for n in steps], **DASHED, label=formula)
for i, (kind, values) in enumerate(speeds.items()):
    plots.series(right, i, batches, values, kind)
pace = {name: speeds["paged" if "blocks" in name else "contiguous"][batches.index(n)] for name, n in room.items()}
gain = pace["blocks of 16"] / pace["reserve"]
title = f"In equal memory, paging gives {gain:.1f} times the tokens"
plots.label(right, title, f"requests in the batch ({context} tokens each), and how many fit", "throughput (tokens/s)")
plots.legend(right)
fitting = {n: name.replace(" ", "\n", 1) for name, n in room.items()}
right.set_xticks(batches, [f"{n}\n{fitting.get(n, '')}" for n in batches])
plots.show(fig)

# %% [markdown]
# **The gap** to both ceilings is made of small calls: some for each layer and sequence in either cache, and with pages
# a dozen more for each page, some tens of microseconds during which nothing is read. At equal batch that makes paging the
# slower one; it wins by the requests that would otherwise wait outside.
#
# ## Which block size?
#
# Left: waste on the real lengths, with the formula. Right: one decode step at 512 tokens of context. The table itself never
# decides: 4 bytes for each block of megabytes.

# %%
print(f"{'block size':>10}{'waste':>9}{'entries in a table':>20}{'table / cache, Llama-3-8B':>27}")
for size in SIZES:
    share = 4 / (size * preset("llama-3-8b").kv_bytes_per_token())
    print(f"{size:10}{found[f'paged {size}']['waste']:9.2%}{mean / size:20,.0f}{share:27.1e}")

# %% tags=["timing"]
sizes = [1, 4, 16, 64, 256]
times = [1e3 * step_s("paged", 1, 512, size, steps=2) for size in sizes]
whole = 1e3 * step_s("contiguous", 1, 512)

# %% tags=["timing", "drawing"]
fig, (left, right) = plots.figure(2)
formula = [100 * (s - 1) / 2 / (mean + (s - 1) / 2) for s in SIZES]
left.plot(SIZES, formula, **DASHED, label="formula: (B − 1)/2 / (n̄ + (B − 1)/2)")
plots.series(left, 0, SIZES, [100 * found[f"paged {size}"]["waste"] for size in SIZES], "requests like Azure's")
title = f"Waste is half a block: {formula[4]:.1f}% at 16, {formula[-1]:.0f}% at 256"
plots.label(left, title, "block size B (tokens)", "waste (%)")
plots.legend(left)

least = 1e3 * config.decode_bytes(512, 1, 32, 4) / machine.read_bytes_per_s
right.axhline(least, **DASHED, label="floor: bytes of a step / bandwidth")
plots.series(right, 0, sizes, times, "paged")
plots.series(right, 1, sizes, [whole] * len(sizes), "contiguous")
title = f"From block size 1 to 16 a step gets {times[0] / times[2]:.1f} times faster"
plots.label(right, title, "block size B (tokens)", "one decode step (ms)")
right.set_yscale("log")
right.set_ylim(least / 1.5, 1.5 * max(times))
right.legend(loc="upper right", frameon=False)
marks = [m for m in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000) if least / 1.5 < m < 1.5 * max(times)]
right.set_yticks(marks, [str(m) for m in marks])
for axes, ticks in ((left, SIZES), (right, sizes)):
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(size) for size in ticks])
    axes.minorticks_off()
plots.show(fig)

# %% [markdown]
# **The gap** above the floor is a look-up and a short read per block: with blocks of 1 the Python loop runs once per token
# and layer, with 256 hardly at all. A GPU's curve has the same shape for another reason: short reads use a part of the
# bandwidth.
#
# ## Try it
#
# How many chats fit, and what does a larger block cost? Predict, then move. (Needs `ipywidgets`.)

# %% tags=["skip-execution"]
from ipywidgets import interact


@interact(gigabytes=(8, 640, 8), mean_length=(64, 8192, 64), reserve=(512, 32768, 512), block_size=[1, 8, 16, 64, 256, 1024])
def chats(name="llama-3-8b", gigabytes=24, mean_length=1216, reserve=8192, block_size=16):
    tokens = kv_tokens(preset(name), gigabytes * 1e9)
    print(f"{tokens:,.0f} tokens of cache: {tokens // reserve:,.0f} chats reserved, ", end="")
    print(f"{tokens // (mean_length + (block_size - 1) / 2):,.0f} paged, at most {tokens / mean_length:,.1f}")
