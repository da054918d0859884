# %% [markdown]
# # 04 · PagedAttention: virtual memory for the KV cache
#
# The lesson ([04_paged_attention.md](../lessons/04_paged_attention.md)) claims: blocks of one size waste half a block per
# sequence instead of most of the memory; two sequences may own one block until one of them writes; and throughput grows
# because more requests fit. We watch a pool at work, count on real lengths, measure what the look-ups cost, and see how often
# a pool that is filled to the mean runs over.

# %%
import os
import time
from statistics import median

import numpy as np

from minillm import SamplingParams, plots
from minillm.bench.machine import kept_machine
from minillm.bench.replay import waste, waste_table
from minillm.bench.rounds import in_turn, medians
from minillm.bench.steps import decode_seconds, fill
from minillm.cache.block_pool import BlockPool
from minillm.cache.block_table import BlockTable
from minillm.cache.paged import PageStore
from minillm.costs.memory import kv_tokens
from minillm.costs.time import step_time
from minillm.course.notebooks.figures import quote
from minillm.course.notebooks.model_at_hand import model_at_hand
from minillm.load.profiles import draw, load_profile
from minillm.load.traces import TraceRequest, read_azure
from minillm.model.generate import generate_tokens
from minillm.model.load import bits_per_weight
from minillm.model.presets import preset
from minillm.model.transformer import Segment
from minillm.model.zoo import resolve

DASHED = {"color": "black", "linestyle": "--", "linewidth": 1.2}
ROUNDS = 3


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
draw_pool(first, plots.finding("A: 10 tokens in 3 blocks", len(a.blocks) == 3, counted=True), {"A": a})
print("append 10:     ", told({"A": a}))

b = a.fork()
title = plots.finding("Fork: 3 blocks hold 2 × 10 tokens", 8 - pool.num_free == 3, counted=True)
draw_pool(second, title, {"A": a, "B": b})
print("fork:          ", told({"A": a, "B": b}))

slots, copies = b.append(1)
((source, target),) = copies
alone = a.blocks[:2] == b.blocks[:2] and a.blocks[2] == source != target == b.blocks[2]
title = plots.finding(f"B writes: only block {source} is copied, to {target}", alone, counted=True)
draw_pool(third, title, {"A": a, "B": b})
print("append 1 to B: ", told({"A": a, "B": b}), f"| copies {copies}, slot {slots}")
slots, copies = a.append(1)
print("append 1 to A: ", told({"A": a, "B": b}), f"| copies {copies}, slot {slots}: the last owner keeps the original")
plots.show(fig)

# %% [markdown]
# **The gap** is in the two last blocks: 3 of the 16 slots in use are empty, and wait for their owner's next tokens. The 21 tokens
# of both sequences take 13 slots.
#
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
mean = found["paged 16"]["mean_tokens_reserved"] * (1 - found["paged 16"]["waste"])  # tokens held
print(f"tokens that a request holds, mean over its decode steps: {quote('mean', f'{mean:,.0f}')}")

# %% [markdown]
# The memory on the right is what Llama-3-8B in 16 bits leaves for its cache on a card of 24 GB.

# %%
WAYS = {"reserve 8,192": "reserve 8192", "power of two": "power of two", "blocks of 16": "paged 16"}
formulas = {"1 − mean / N": 1 - mean / 8192, "1/4": 0.25, "7.5 / (mean + 7.5)": 7.5 / (mean + 7.5)}
memory = kv_tokens(preset("llama-3-8b"), 24e9)
fits = {name: int(memory // found[way]["mean_tokens_reserved"]) for name, way in WAYS.items()}
paged, reserved = found["paged 16"]["waste"], found["reserve 8192"]["waste"]
print(f"wasted: {quote('waste paged', f'{paged:.2%}')} in blocks of 16, {quote('waste reserved', f'{reserved:.1%}')} reserved")
print(f"{memory:,.0f} tokens of cache: {quote('fit paged', fits['blocks of 16'])} chats in blocks of 16, ", end="")
print(f"{quote('fit reserved', fits['reserve 8,192'])} reserved")

# %% tags=["drawing"]
fig, (left, right) = plots.figure(2)
for i, value in enumerate(formulas.values()):
    left.plot([i - 0.45, i + 0.45], [100 * value] * 2, **DASHED, zorder=3, label=None if i else "formula of the lesson")
names = [f"{way}\n{formula}" for way, formula in zip(WAYS, formulas, strict=True)]
plots.bars(left, names, [100 * found[way]["waste"] for way in WAYS.values()], "%")
title = f"Paging wastes {paged:.1%} of the memory instead of {reserved:.0%}"
title = plots.finding(title, paged < 0.01 and reserved > 0.8, counted=True)
plots.label(left, title, "way of allocating", "share of reserved memory (%)")
plots.legend(left)

plots.ceiling(right, memory / mean, f"ceiling: memory / mean length = {memory:,.0f} / {mean:,.0f} tokens")
plots.bars(right, list(fits), list(fits.values()), "requests")
plots.check_ceiling("requests at once", list(fits.values()), [memory / mean] * 3)
title = f"{fits['blocks of 16']} chats fit where {fits['reserve 8,192']} could be promised the maximum"
title = plots.finding(title, fits["blocks of 16"] > 6 * fits["reserve 8,192"], counted=True)
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
# ## TTFT and throughput, with pages and without
#
# The same model on compiled kernels, once with one array for each sequence and once with pages of 16. The tokens are the same.
# Both ways take turns, three rounds; lines go through the medians, vertical strokes from the fastest to the slowest.

# %% tags=["timing"]
machine = kept_machine()
llm = model_at_hand("numba")
config = llm.config
bits = bits_per_weight(resolve(llm.source), config) if llm.source else 4.5  # of the random model: fewer than it has, as a bound
peak = machine.peak(kernels=True)
rng = np.random.default_rng(0)


def make_cache(llm, kind, tokens, batch=1, size=16):
    """A batch of empty caches with room for so many tokens each."""
    if kind == "one array":
        return [llm.transformer.new_cache() for _ in range(batch)]
    store = PageStore.for_model(config, batch * -(-tokens // size), size, ops=llm.transformer.ops)
    return [store.new_cache() for _ in range(batch)]


def generate(kind, new=12):
    prompt = llm.chat([{"role": "user", "content": "Tell me a short story about a brave little fox."}])
    (cache,) = make_cache(llm, kind, len(prompt) + new)
    sequence = llm.sequence(0, prompt, SamplingParams(max_tokens=new, ignore_eos=True), cache=cache)
    for _ in generate_tokens(llm.transformer, (), [sequence]):
        pass
    return sequence.token_ids


def ttft_s(kind, n):
    ids = rng.integers(0, config.vocab_size, n)
    (cache,) = make_cache(llm, kind, n)
    start = time.perf_counter()
    llm.transformer.forward([Segment(ids, 0, cache)])
    return time.perf_counter() - start


KINDS = ("one array", "pages of 16")
print("same tokens:", generate("one array") == generate("pages of 16"))
LENGTHS = (64, 128, 256, 512)
waits = in_turn([(kind, n) for n in LENGTHS for kind in KINDS], ROUNDS, lambda way: ttft_s(*way))

# %% [markdown]
# Then decode in a memory of 1,024 tokens, with the trace's requests at a sixteenth of their length, so that a laptop gets
# through. Reserving means 512 tokens each, so two requests fit. How many fit in the other ways, the replay says; the pace of
# such a batch is measured.

# %% tags=["timing"]
small = [TraceRequest(max(1, r.prompt // 16), max(1, r.output // 16)) for r in requests]
there = waste(small, reserve=512, block_sizes=(16,))
room = {"reserve": 2, "power of two": int(2 * there["power of two"]["fits"]), "blocks of 16": int(2 * there["paged 16"]["fits"])}
context = round(512 / there["paged 16"]["fits"] * (1 - there["paged 16"]["waste"]))
print(f"mean length {context} tokens; in {2 * 512:,} tokens of memory fit", room)


def step_s(llm, kind, batch, context, size=16, steps=3):
    """One decode step of a batch, each with so much context: random keys and values, the time does not depend on them."""
    caches = [fill(cache, config, context) for cache in make_cache(llm, kind, context + steps + 1, batch, size)]
    return min(decode_seconds(llm.transformer, caches, steps + 1)[1:])


batches = sorted({1, 4, *room.values()})
steps_s = in_turn([(kind, n) for n in batches for kind in KINDS], ROUNDS, lambda way: step_s(llm, *way, context))
paces = {kind: [[n / seconds for seconds in steps_s[kind, n]] for n in batches] for kind in KINDS}
speeds = {kind: medians(paces[kind]) for kind in KINDS}
pace = {name: speeds["pages of 16" if "blocks" in name else "one array"][batches.index(n)] for name, n in room.items()}
gain = pace["blocks of 16"] / pace["reserve"]
slower = median(a / b for a, b in zip(waits["pages of 16", 512], waits["one array", 512], strict=True))
even = median(a / b for a, b in zip(paces["pages of 16"][-1], paces["one array"][-1], strict=True))
print(f"TTFT of 512 tokens, pages over one array: {quote('ttft ratio', f'{slower:.2f}')}")
print(f"pace in equal memory, paged over reserved: {quote('gain', f'{gain:.1f}')} times, {batches[-1]} requests instead of 2")
print(f"pace at an equal batch of {quote('batch', batches[-1])}, pages over one array: {quote('even batch', f'{even:.2f}')}")

# %% tags=["timing", "drawing"]
fig, (left, right) = plots.figure(2)
curves = {kind: (LENGTHS, [median(waits[kind, n]) for n in LENGTHS]) for kind in KINDS}
floor = [config.prefill_flops(n) / peak for n in LENGTHS]
title = plots.finding(f"Through pages, TTFT is {slower:.2f} times that of one array", 0.8 < slower < 1.25)
plots.ttft_plot(left, curves, title, bound=(LENGTHS, floor, "floor: prefill FLOPs / peak FLOP/s"))
for kind in KINDS:
    plots.spread(left, LENGTHS, [waits[kind, n] for n in LENGTHS], 1e3)
left.set_xticks(LENGTHS)

top = [n / step_time(config, peak, machine.read_bytes_per_s, n, context, bits=bits, kv_bits=32) for n in batches]
right.plot(batches, top, **DASHED, label="ceiling: batch / (products + reading of caches)")
for i, kind in enumerate(KINDS):
    plots.check_ceiling(kind, speeds[kind], top)
    plots.series(right, i, batches, speeds[kind], kind)
    plots.spread(right, batches, paces[kind])
title = plots.finding(f"In equal memory, paging gives {gain:.1f} times the tokens", gain > 1.3)
plots.label(right, title, f"requests in the batch ({context} tokens each), and how many fit", "throughput (tokens/s)")
plots.legend(right)
fitting = {n: name.replace(" ", "\n", 1) for name, n in room.items()}
right.set_xticks(batches, [f"{n}\n{fitting.get(n, '')}" for n in batches])
plots.show(fig)

# %% [markdown]
# **The gap** to floor and ceiling is the part of the peak that the kernels do not reach, and, for each step, Python between the
# kernels. It is about the same for both ways: the table costs a look-up for each page. Paging wins by the requests that would
# otherwise wait outside, and by nothing else.
#
# ## Which block size?
#
# Left: waste on the real lengths, with the formula. Right: one decode step at 512 tokens of context, divided by the step of the
# same backend on one array. Compiled kernels carry the claim. The readable NumPy reference makes a Python call for each page
# and layer, and shows what a look-up costs when nothing hides it.

# %%
print(f"{'block size':>10}{'waste':>9}{'entries in a table':>20}{'table / cache, Llama-3-8B':>27}")
for size in SIZES:
    share = 4 / (size * preset("llama-3-8b").kv_bytes_per_token())
    print(f"{size:10}{found[f'paged {size}']['waste']:9.2%}{mean / size:20,.0f}{share:27.1e}")
wasted = [100 * found[f"paged {size}"]["waste"] for size in SIZES]
formula = [100 * (s - 1) / 2 / (mean + (s - 1) / 2) for s in SIZES]
print(f"blocks of 256 waste {quote('waste 256', f'{wasted[-1]:.1f}%')}")

# %% tags=["timing"]
readable = model_at_hand("numpy", say=lambda text: None)
TRIED = (1, 4, 16, 64, 256)
KINDS_OF_CODE = {"compiled": (llm, 8), "NumPy, readable": (readable, 2)}  # and steps, of which the fastest counts


def sized(way):  # (kind, size; 0 for one array) -> seconds
    kind, size = way
    model, steps = KINDS_OF_CODE[kind]
    return step_s(model, "pages" if size else "one array", 1, 512, size, steps)


# first all rounds of one kind, then those of the other: threads of NumPy's products go on waiting in loops for a while
measured = {}
for kind in KINDS_OF_CODE:
    sized((kind, 0))
    measured |= in_turn([(kind, size) for size in (0, *TRIED)], ROUNDS, sized)
ratios = {
    kind: [[a / b for a, b in zip(measured[kind, size], measured[kind, 0], strict=True)] for size in TRIED]
    for kind in KINDS_OF_CODE
}
middle = {kind: medians(each) for kind, each in ratios.items()}
loss = {size: middle["compiled"][TRIED.index(size)] for size in (1, 16)}
toll = middle["NumPy, readable"][0]
print(f"compiled step over one array: {quote('size 1', f'{loss[1]:.2f}')} with blocks of 1, ", end="")
print(f"{quote('size 16', f'{loss[16]:.2f}')} with 16; readable, blocks of 1: {quote('readable', f'{toll:.1f}')}")

# %% tags=["timing", "drawing"]
fig, (left, right) = plots.figure(2)
left.plot(SIZES, formula, **DASHED, label="formula: (B − 1)/2 / (mean + (B − 1)/2)")
plots.series(left, 0, SIZES, wasted, "requests like Azure's")
near = all(abs(a - b) < 0.1 * b + 0.01 for a, b in zip(wasted, formula, strict=True))
title = plots.finding(f"Waste is half a block: {wasted[4]:.1f}% at 16, {wasted[-1]:.0f}% at 256", near, counted=True)
plots.label(left, title, "block size B (tokens)", "waste (%)")
plots.legend(left)

right.axhline(1, **DASHED, label="one array, same backend")
for i, (kind, values) in enumerate(middle.items()):
    plots.series(right, i, TRIED, values, kind)
    plots.spread(right, TRIED, ratios[kind])
title = plots.finding(f"Pages of 1: {loss[1]:.1f} × compiled, {toll:.0f} × in readable Python", toll > 1.2 * loss[1])
plots.label(right, title, "block size B (tokens)", "decode step (× that of one array)")
low, high = min(map(min, middle.values())), max(map(max, middle.values()))
marks = [m for m in (0.5, 1, 2, 5, 10, 20, 50, 100) if low / 1.5 < m < 3 * high]
plots.log_heights(right, marks, low / 1.5, 3 * high)
right.legend(loc="upper right", frameon=False)
for axes, ticks in ((left, SIZES), (right, TRIED)):
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(size) for size in ticks])
    axes.minorticks_off()
plots.show(fig)

# %% [markdown]
# **The gap** above one array is a look-up and a short read for each block: compiled, a few instructions; readable, about a dozen
# NumPy calls, once for each token and layer with blocks of 1. A GPU's curve has the first shape, for one more reason: short
# reads use a part of the bandwidth.
#
# ## When it hurts: a pool that is filled to the mean
#
# 34 chats fit *on average*. Here the seats of a server are filled with chats at random moments of their lives, 20,000 times.
# We count how often their blocks are more than the pool has. Each such moment means that a running chat is preempted.

# %%
draws = np.random.default_rng(4)
served = [r for r in requests if r.prompt + r.output <= 8192]
prompts, outputs = np.array([r.prompt for r in served]), np.array([r.output for r in served])
SEATS = (16, 20, 24, 28, 31, 34, 37, 40)
picked = draws.choice(len(served), (20_000, max(SEATS)), p=outputs / outputs.sum())  # a step of a long answer is met more often
held = prompts[picked] + (draws.random(picked.shape) * outputs[picked]).astype(int)
blocks = np.ceil(held / 16)
over = [100 * float((blocks[:, :seats].sum(axis=1) > memory // 16).mean()) for seats in SEATS]
safe = max(seats for seats, share in zip(SEATS, over, strict=True) if share < 1)
full = over[SEATS.index(34)]
print(f"34 seats: too few blocks in {quote('over 34', f'{full:.0f}%')} of all moments; ", end="")
print(f"up to {quote('safe', safe)} seats: below 1%")

# %% tags=["drawing"]
fig, (axes,) = plots.figure(1)
plots.series(axes, 0, SEATS, over, "seats filled with chats like Azure's")
axes.axvline(memory / (mean + 7.5), **DASHED, label="memory / (mean length + 7.5)")
title = plots.finding(f"Filled to the mean, the pool runs over in {full:.0f}% of all moments", 30 < full < 70, counted=True)
plots.label(axes, title, "chats that run at once", "moments with too few blocks (%)")
axes.set_xticks(SEATS)
plots.legend(axes)
plots.show(fig)

# %% [markdown]
# **The gap** between the dashed line and the number of seats that is safe is the spread of the lengths: the sum of 34 lengths
# lies above its mean about as often as below. That memory is not lost; it is what admission leaves free for growth.
#
# ## Try it
#
# How many chats fit, and what does a larger block cost? Predict, then move. (Needs `ipywidgets`.)

# %% tags=["skip-execution"]
from ipywidgets import interact


@interact(gigabytes=(8, 640, 8), mean_length=(26, 8176, 50), reserve=(512, 32768, 512), block_size=[1, 8, 16, 64, 256, 1024])
def chats(name="llama-3-8b", gigabytes=24, mean_length=1226, reserve=8192, block_size=16):
    tokens = kv_tokens(preset(name), gigabytes * 1e9)
    print(f"{tokens:,.0f} tokens of cache: {tokens // reserve:,.0f} chats reserved, ", end="")
    print(f"{tokens // (mean_length + (block_size - 1) / 2):,.0f} paged, at most {tokens / mean_length:,.1f}")
