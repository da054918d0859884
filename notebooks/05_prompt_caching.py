# %% [markdown]
# # 05 · Prompt caching: never read the same beginning twice
#
# The lesson ([05_prompt_caching.md](../lessons/05_prompt_caching.md)) claims: prompts that begin alike have the same keys and
# values, so a shared prefix is found, not computed; TTFT falls with the share that is found; what stays in a full cache is a
# matter of policy, with Belady above all of them. We look at both ways to find, then measure, replay, and do the sums.

# %%
import os
import zlib

import numpy as np

from minillm import SamplingParams, plots
from minillm.bench import prefix
from minillm.bench.machine import measure_machine
from minillm.bench.replay import prefix as replay
from minillm.bench.replay import prefix_table
from minillm.cache.block_pool import BlockPool
from minillm.cache.block_table import BlockTable
from minillm.cache.prefix import HashPrefixCache
from minillm.cache.radix import RadixCache
from minillm.costs.prices import FIVE_MINUTES, ONE_HOUR, Prices, break_even_reuses
from minillm.course.notebooks.model_at_hand import model_at_hand
from minillm.gateway.session import Part, Session, Usage
from minillm.load.profiles import draw, load_profile
from minillm.load.traces import read_mooncake

DASHED = {"color": "black", "linestyle": "--", "linewidth": 1.2}

# %% [markdown]
# ## How a hash chain and a radix tree see the same prompts
#
# A word is a token, a block holds two. Each prompt is served and its blocks are kept. The chain has an entry for each
# block, named after all that came before it: "a poem" gets a name of its own in each place. The tree has an entry for each
# stretch without a branch, and splits one where a prompt leaves it.

# %%
PROMPTS = [
    "You are a poet . Write a poem",
    "You are a poet . Write a haiku please",
    "You are a pirate . Write a poem",
]


def serve(make_cache):
    """Serve the prompts one after another; the cache, and the tokens that each found there."""
    pool, found = BlockPool(64, 2), []
    cache = make_cache(pool)
    for prompt in PROMPTS:
        words = prompt.split()
        table = BlockTable(pool, cache.match(words))
        found.append(table.length)
        table.append(len(words) - table.length)
        cache.commit(words, table.blocks)
        table.free()
    return cache, found


def fingerprint(block):
    """A hash that is the same on every machine; Python's own is salted for texts."""
    return zlib.crc32(repr(block).encode())


def tree_text(node, depth=0):
    for child in node.children.values():
        print("    " * depth + f"└─ {' '.join(child.tokens)}   (blocks {' '.join(map(str, child.pages))})")
        tree_text(child, depth + 1)


chain, found = serve(lambda pool: HashPrefixCache(pool, fingerprint))
for entry in chain.by_name.values():
    parent = f"{entry.parent.name:08x}" if entry.parent else "start"
    print(f"{entry.name:08x} = H({parent:>8}, {' '.join(entry.tokens)!r})".ljust(48) + f"block {entry.block}")
print(f"{len(chain.by_name)} entries; tokens found by each prompt: {found}")
print()
tree, found_too = serve(RadixCache)
tree_text(tree.root)
print(f"{len(set(tree.home.values()))} entries; tokens found by each prompt: {found_too}; the chain's: {found == found_too}")

# %% [markdown]
# The second prompt shares seven words and finds six: full blocks only.
#
# ## The same answer
#
# Two calls with a breakpoint after the manual, on the model at hand. The second reads what the first has written; a call
# without any cache gives the same tokens.

# %%
llm = model_at_hand()
config = llm.config
session = Session(llm, capacity=1024, max_length=1024)
manual = Part("You are the clerk of a small library. Answer in one short sentence, and be friendly. " * 8, cache=True)
eight = SamplingParams(max_tokens=8, ignore_eos=True)
for question in ("Where are the atlases?", "When do you close?"):
    print(session.generate([manual, question], eight).usage)
ids = session.last.completion.prompt_token_ids
print("same tokens:", llm.generate(ids, eight).token_ids == session.last.completion.token_ids)

# %% [markdown]
# ## TTFT and throughput, with and without
#
# A prompt of which more and more is kept. The ceiling is the cold TTFT times the share of the FLOPs that are left, about
# 1 − s, down to one reading of all weights. Then whole requests, one after another: a kept system prompt, a question of 16
# tokens, an answer of 32. Blocks of 64 keep the Python loop over pages short.

# %% tags=["timing"]
machine = measure_machine(megabytes=256)
measured = prefix.run(llm, prompt_tokens=512, shares=(0.0, 0.5, 0.75, 0.9, 0.95), rounds=3, block_size=64)
print(prefix.table(measured))

ANSWER = SamplingParams(max_tokens=32, ignore_eos=True)
rng = np.random.default_rng(1)
system, question = (rng.integers(0, config.vocab_size, n).tolist() for n in (512, 16))
session = Session(llm, capacity=512, max_length=1024, block_size=64)
session.generate([Part(system, cache=True), question], eight)  # writes it


def metrics(cached):
    """Of the better of two requests: seconds in all, seconds to the first token, tokens."""
    answers = [session.generate([Part(system, cached), question], ANSWER).completion for _ in range(2)]
    return min((answer.metrics["e2e_s"], answer.metrics["ttft_s"], answer.token_ids) for answer in answers)


(cold_s, cold_ttft, cold_ids), (warm_s, warm_ttft, warm_ids) = metrics(False), metrics(True)
print("same tokens:", cold_ids == warm_ids)

# %% tags=["timing", "drawing"]
fig, (left, right) = plots.figure(2)
rows, cold = measured["shares"], measured["ttft_cold_s"]
shares = [100 * row["share"] for row in rows]
weights_s = config.decode_bytes(0, 1, 32) / machine.read_bytes_per_s
bound = [max(row["floor_ttft_s"], weights_s) for row in rows]
title = f"With {shares[-1]:.0f}% cached the first token comes {rows[-1]['ratio']:.1f} times sooner"
curves = {"paged, prefix cached": (shares, [row["ttft_s"] for row in rows]), "contiguous, no cache": (shares, [cold] * len(rows))}
formula = "ceiling: cold TTFT × FLOPs left, down to one reading of the weights"
x = f"share of the {measured['prompt_tokens']}-token prompt that is cached (%)"
plots.ttft_plot(left, curves, title, x, bound=(shares, bound, formula))

pace = {"without": 32 / cold_s, "system prompt cached": 32 / warm_s}
top = 32 / (cold_s - cold_ttft)
title = f"Whole requests: {cold_s / warm_s:.1f} times the tokens, {cold_s / (cold_s - cold_ttft):.1f} at most"
plots.throughput_plot(right, pace, title, (top, "ceiling: without prefill, the time of decode alone"))
for text in right.texts:
    text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})
plots.show(fig)

# %% [markdown]
# **The gap** left: 26 rows do not run through a matrix product at the speed of 512, and each step has a fixed cost of
# small calls, a few for each page that is looked up. Right: the ceiling is prefill's share of the whole time, since decode
# costs what it did; what is missing is the prefill of the question.
#
# ## Hit rate by policy and capacity
#
# 512-token pages of conversations at Mooncake: the trace itself if `MINILLM_MOONCAKE_TRACE` says where it lies, otherwise
# requests drawn from the project's own profile of it in `data/profiles`.

# %%
trace = os.environ.get("MINILLM_MOONCAKE_TRACE")
profile = load_profile("mooncake_conv")
requests = read_mooncake(trace) if trace else draw(profile)
source = "of the trace itself" if trace else f"drawn from this project's profile of {profile['source']}"
print(f"{len(requests):,} requests {source}")

# %% tags=["timing"]
CAPACITIES = (1_000_000, 3_000_000, 10_000_000)
replayed = replay(requests, CAPACITIES)
print(prefix_table(replayed))

# %%
NAMES = {"lru": "LRU", "lfu": "LFU", "cost": "cost-aware (GreedyDual)"}
DEFINITIONS = {"hit_rate_tokens": "tokens found / prompt tokens", "hit_rate_mean": "mean of each request's share"}
rates = {(row["policy"], row["capacity_tokens"]): row for row in replayed["rows"]}

# %% tags=["drawing"]
fig, panels = plots.figure(2)
for axes, (key, meaning) in zip(panels, DEFINITIONS.items(), strict=True):
    x = [c / 1e6 for c in CAPACITIES]
    unlimited = 100 * replayed["unlimited"][key]
    axes.axhline(unlimited, **DASHED, label=f"ceiling: unlimited memory, {unlimited:.1f}%")
    belady = [100 * rates["belady", c][key] for c in CAPACITIES]
    axes.plot(x, belady, color="black", linestyle=":", marker="x", label="ceiling: Belady, who knows the future")
    for i, (policy, name) in enumerate(NAMES.items()):
        plots.series(axes, i, x, [100 * rates[policy, c][key] for c in CAPACITIES], name)
    of_belady = rates["lru", 3_000_000][key] / rates["belady", 3_000_000][key]
    plots.label(axes, f"LRU at 3 million tokens: {of_belady:.0%} of Belady's hits", "capacity (million tokens)", f"{meaning} (%)")
    axes.set_xscale("log")
    axes.set_xticks(x, [f"{c:g}" for c in x])
    axes.minorticks_off()
    axes.set_ylim(0, unlimited * 1.9)
    axes.legend(loc="upper left", frameon=False)
plots.show(fig)

# %% [markdown]
# **The gap** between LRU and Belady is what a better policy could win, at most: at a small capacity the traffic between two
# turns of a chat flushes what the next one needs. The gap from Belady to the dashed line only memory closes. The two
# definitions differ since long prompts weigh more in the left one.
#
# ## What it costs
#
# APIs sell a write for more than plain input, and a read for less. In multiples of the plain price of the prefix.

# %%
k = np.linspace(0, 3, 31)
schemes = {"kept 5 minutes": FIVE_MINUTES, "kept 1 hour": ONE_HOUR}
points = {name: break_even_reuses(s.write, s.read) for name, s in schemes.items()}

# %% tags=["drawing"]
fig, (left, right) = plots.figure(2)
left.plot(k, 1 + k, **DASHED, label="ceiling: no caching, 1 + k")
uses = np.arange(1, 51)
right.axhline(FIVE_MINUTES.read, **DASHED, label=f"floor: price of a read, {FIVE_MINUTES.read}")
for i, (name, s) in enumerate(schemes.items()):
    plots.series(left, i, k[::5], s.write + k[::5] * s.read, f"{name}: {s.write:g} + {s.read:g} k")
    left.plot(points[name], 1 + points[name], "k*", markersize=13)
    left.annotate(f"{points[name]:.2f}", (points[name], 1 + points[name]), xytext=(-2, 9), textcoords="offset points", ha="right")
    chosen = uses[[0, 1, 2, 4, 9, 19, 49]]
    plots.series(right, i, chosen, (s.write + (chosen - 1) * s.read) / chosen, name)
soon, late = points.values()
title = f"Caching pays after {soon:.2f} reuses, or {late:.2f} for an hour"
plots.label(left, title, "reuses k", "cost of the prefix (× its plain price)")
plots.legend(left)
ten = (FIVE_MINUTES.write + 9 * FIVE_MINUTES.read) / 10
right.plot(10, ten, "k*", markersize=13)
right.annotate(f"{ten:.3f}", (10, ten), xytext=(4, 16), textcoords="offset points")
plots.label(right, f"Used ten times, a prefix costs {ten:.3f} of its price", "uses", "cost of a use (× plain price)")
right.set_xscale("log")
right.set_xticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
right.minorticks_off()
plots.legend(right)
plots.show(fig)

# %% [markdown]
# **The gap** to the floor is the premium of the one write, spread over the uses.
#
# The agent of the lesson: 50 steps of 1,000 tokens, each with all that came before. At 3 dollars for a million tokens of
# input, by the prices of [costs/prices.py](../minillm/prices.py) (look up today's):

# %%
agent = sum((Usage(cache_write_tokens=1000, cache_read_tokens=1000 * step) for step in range(50)), Usage())
bill = Prices.from_scheme(3.0, 15.0, FIVE_MINUTES)
print(agent)
print(f"${bill.cost_without_cache(agent):.2f} without caching, ${bill.cost(agent):.2f} with it")

# %% [markdown]
# ## Try it
#
# When is a breakpoint worth it? Predict, then move. (Needs `ipywidgets`.)

# %% tags=["skip-execution"]
from ipywidgets import interact


@interact(tokens=(1000, 100_000, 1000), question=(10, 2000, 10), calls=(1, 100), write=(1.0, 2.0, 0.05), read=(0.0, 1.0, 0.05))
def sums(tokens=10_000, question=200, calls=10, write=1.25, read=0.1):
    usage = Usage(calls * question, tokens, (calls - 1) * tokens)
    prices = Prices(3.0, 15.0, write, read)
    plain, cached = prices.cost_without_cache(usage), prices.cost(usage)
    after = break_even_reuses(write, read)
    print(f"${plain:.3f} plain, ${cached:.3f} cached ({cached / plain:.0%}); pays after {after:.2f} reuses")
