# %% [markdown]
# # 05 · Prompt caching: never read the same beginning twice
#
# The lesson ([05_prompt_caching.md](../lessons/05_prompt_caching.md)) claims: prompts that begin alike have the same keys and
# values, so a shared prefix is found, not computed; TTFT falls with the share that is found; what stays in a full cache is a
# matter of policy, with Belady above all of them. We look at both ways to find, then measure alone and beside a neighbour, replay
# a trace, ask why LRU wins there, and do the sums.

# %%
import os
import time
import zlib
from statistics import median

import numpy as np

from minillm import SamplingParams, plots
from minillm.bench.machine import kept_machine
from minillm.bench.replay import EVEN_PAGES, hits, prefix_table
from minillm.bench.replay import prefix as replay
from minillm.bench.rounds import in_turn
from minillm.bench.steps import fill
from minillm.cache.block_pool import BlockPool
from minillm.cache.block_table import BlockTable
from minillm.cache.paged import PageStore
from minillm.cache.policies import LFU, LRU, Belady, GreedyDual
from minillm.cache.prefix import HashPrefixCache
from minillm.cache.radix import RadixCache
from minillm.costs.prices import FIVE_MINUTES, ONE_HOUR, Prices, break_even_reuses
from minillm.costs.time import step_time
from minillm.course.notebooks.figures import quote
from minillm.course.notebooks.model_at_hand import model_at_hand
from minillm.gateway.session import Part, Session, Usage
from minillm.load.profiles import draw, load_profile
from minillm.load.traces import TraceRequest, read_mooncake
from minillm.model.load import bits_per_weight
from minillm.model.transformer import Segment
from minillm.model.zoo import resolve

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
# Two calls with a breakpoint after the manual, on the model at hand with compiled kernels. The second reads what the first has
# written; a call without any cache gives the same tokens.

# %%
llm = model_at_hand("numba")
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
# A prompt of which more and more is kept; three rounds, both ways in turn. The floor is that of the machine: each product with
# the weights takes the longer of its FLOPs and of reading the weights, and attention is added. Then whole requests, one after
# another: a kept system prompt, a question of 16 tokens, an answer of 32.

# %% tags=["timing"]
machine = kept_machine()
peak, bandwidth = machine.peak(kernels=True), machine.read_bytes_per_s
bits = bits_per_weight(resolve(llm.source), config) if llm.source else 4.5  # of the random model: fewer than it has, as a bound
PROMPT, ROUNDS = 512, 3
SHARES = (0.0, 0.5, 0.75, 0.9, 0.95)
rng = np.random.default_rng(1)
ONE, ANSWER = SamplingParams(max_tokens=1, ignore_eos=True), SamplingParams(max_tokens=32, ignore_eos=True)


def some(n):
    return rng.integers(0, config.vocab_size, n).tolist()


system, question = some(PROMPT), some(16)
cuts = [int(share * PROMPT) for share in SHARES]
session = Session(llm, ttl_s=float("inf"), min_tokens=1, capacity=PROMPT + 64, max_length=1024)
edges = sorted({*cuts, PROMPT})
session.generate([Part(system[a:b], cache=True) for a, b in zip(edges, edges[1:], strict=False)], ONE)  # writes it


def ttft_s(way):
    """way: tokens kept of the prompt, or None for the plain way without a session."""
    if way is None:
        return llm.generate(some(PROMPT), ONE).metrics["ttft_s"]
    return session.generate([Part(system[:way], cache=True), some(PROMPT - way)], ONE).completion.metrics["ttft_s"]


waits = in_turn([None, *cuts], ROUNDS, ttft_s)
floors = [step_time(config, peak, bandwidth, chunk=PROMPT - n, cached=n, bits=bits, kv_bits=32) for n in cuts]
faster = [median(a / b for a, b in zip(waits[None], waits[n], strict=True)) for n in cuts]
print(f"{'kept':>6}{'TTFT':>12}{'floor':>12}{'times faster':>15}")
for n, floor, ratio in zip(cuts, floors, faster, strict=True):
    print(f"{n:6}{1e3 * median(waits[n]):9,.0f} ms{1e3 * floor:9,.0f} ms{ratio:15.1f}")
print(f"with 95% kept: {quote('ttft gain', f'{faster[-1]:.1f}')} times sooner; FLOPs allow 20")
print(f"with nothing found, TTFT is {quote('miss', f'{1 / faster[0]:.2f}')} times that without a cache")


def request(cached):
    """Seconds in all, seconds to the first token, tokens."""
    answer = session.generate([Part(system, cached), question], ANSWER).completion
    return answer.metrics["e2e_s"], answer.metrics["ttft_s"], answer.token_ids


whole = in_turn([False, True], ROUNDS, request)
print("same tokens:", len({tuple(tokens) for runs in whole.values() for *_, tokens in runs}) == 1)
paces = {cached: [32 / seconds for seconds, *_ in runs] for cached, runs in whole.items()}
alone = {cached: median((seconds - ttft) / 31 for seconds, ttft, _ in runs) for cached, runs in whole.items()}
gain = median(paces[True]) / median(paces[False])
print(f"whole requests: {quote('pace gain', f'{gain:.1f}')} times the tokens")
print(f"TPOT of the request alone, kept over not kept: {quote('tpot alone', f'{alone[True] / alone[False]:.2f}')}")

# %% tags=["timing", "drawing"]
fig, (left, right) = plots.figure(2)
at = [100 * share for share in SHARES]
title = f"With {at[-1]:.0f}% kept the first token comes {faster[-1]:.1f} times sooner"
falls = all(a < b for a, b in zip(faster, faster[1:], strict=False))
curves = {"prefix kept": (at, [median(waits[n]) for n in cuts]), "no cache": (at, [median(waits[None])] * len(at))}
formula = "floor: products (FLOPs or weights) + attention"
x = f"share of the {PROMPT}-token prompt that is kept (%)"
plots.ttft_plot(left, curves, plots.finding(title, falls and faster[-1] > 3), x, bound=(at, floors, formula))
plots.spread(left, at, [waits[n] for n in cuts], 1e3)

pace = {"without": median(paces[False]), "system prompt kept": median(paces[True])}
top = 1 / min((seconds - ttft) / 31 for runs in whole.values() for seconds, ttft, _ in runs)
title = plots.finding(f"Whole requests: {gain:.1f} times the tokens", gain > 1.2)
plots.throughput_plot(right, pace, title, (top, "ceiling: 1 / TPOT, as if prefill took no time"))
plots.spread_bars(right, [paces[False], paces[True]])
for text in right.texts:
    text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})
plots.show(fig)

# %% [markdown]
# **The gap** left: 26 rows do not run through a matrix product at the speed of 512, and each step has a fixed cost of small
# calls. Right: what is missing to the ceiling is the prefill of the question. The ceiling is not reached by a better cache.
#
# ## Beside a neighbour
#
# "TPOT does not change" holds for a request alone. In a shared engine its prefill stands in a step beside a neighbour's decode,
# and the neighbour's next token waits for the whole step. Three kinds of steps: the decode alone, beside a prompt of 512 tokens
# of which nothing is found, and beside the same prompt of which 496 are found.

# %% tags=["timing"]
store = PageStore.for_model(config, 128, 16, ops=llm.transformer.ops)


def gap_s(found):
    """Seconds of a step with the neighbour's decode at 256 tokens, and a prompt of which `found` tokens are kept."""
    caches = [fill(store.new_cache(), config, n) for n in ((256,) if found is None else (256, found))]
    segments = [Segment([7], 256, caches[0])] + [Segment(some(PROMPT - found), found, c) for c in caches[1:]]
    start = time.perf_counter()
    llm.transformer.forward(segments)
    seconds = time.perf_counter() - start
    for cache in caches:
        cache.free()
    return seconds


KEPT = 496
gaps = in_turn([None, 0, KEPT], ROUNDS, gap_s)
gap = {found: 1e3 * median(runs) for found, runs in gaps.items()}
miss, hit = gap[0] / gap[None], gap[KEPT] / gap[None]
print(f"the neighbour's gap is {gap[None]:.0f} ms alone, {quote('gap miss', f'{miss:.0f}')} times that beside a miss, ", end="")
print(f"{quote('gap hit', f'{hit:.1f}')} times beside a hit")

# %% tags=["timing", "drawing"]
fig, (axes,) = plots.figure(1)
names = {None: "no newcomer", 0: "beside a miss:\n512 new tokens", KEPT: f"beside a hit:\n{PROMPT - KEPT} new tokens"}
least = {
    found: 1e3 * step_time(config, peak, bandwidth, 1, 256, 0 if found is None else PROMPT - found, found or 0, bits, 32)
    for found in names
}
plots.check_floor("gap", list(gap.values()), [least[found] for found in gap])
plots.bars(axes, list(names.values()), [gap[found] for found in names], "ms")
for i, found in enumerate(names):
    formula = None if i else "floor: products + reading + attention"
    axes.plot([i - 0.42, i + 0.42], [least[found]] * 2, **DASHED, zorder=3, label=formula)
plots.spread_bars(axes, [gaps[found] for found in names], 1e3)
title = plots.finding("A hit spares the neighbour most of the wait", gap[KEPT] < 0.5 * gap[0])
plots.label(axes, title, "step of a neighbour that decodes", "its gap between two tokens (ms)")
plots.legend(axes)
plots.show(fig)

# %% [markdown]
# **The gap** above each floor is the part of the peak that the kernels do not reach with so few rows, and Python between them.
#
# ## Hit rate by policy and capacity
#
# 512-token pages of conversations at Mooncake: the trace itself if `MINILLM_MOONCAKE_TRACE` says where it lies, otherwise
# requests drawn from the project's own profile of it in `data/profiles`.

# %%
trace = os.environ.get("MINILLM_MOONCAKE_TRACE")
profile = load_profile("mooncake_conv")
COUNT = 6000  # requests, the first of them: enough to fill 10 million tokens four times, and soon replayed
requests = read_mooncake(trace)[:COUNT] if trace else draw(profile, COUNT)
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
mid = {policy: 100 * rates[policy, 3_000_000]["hit_rate_tokens"] for policy in ("lru", "lfu", "cost", "belady")}
print("of tokens, 3 million kept: ", end="")
print(", ".join(f"{policy} {quote(f'hit {policy}', f'{rate:.1f}%')}" for policy, rate in mid.items()))
small, large = (f"{100 * rates['lru', c]['hit_rate_tokens']:.0f}%" for c in (1_000_000, 10_000_000))
print(f"LRU: {quote('lru small', small)} of tokens with 1 million kept, {quote('lru large', large)} with 10 million")
both = [f"{100 * replayed['unlimited'][key]:.1f}%" for key in DEFINITIONS]
print(f"unlimited: {quote('all tokens', both[0])} of tokens, {quote('all mean', both[1])} mean of the requests")

# %% tags=["drawing"]
fig, panels = plots.figure(2)
for axes, (key, meaning) in zip(panels, DEFINITIONS.items(), strict=True):
    x = [c / 1e6 for c in CAPACITIES]
    unlimited = 100 * replayed["unlimited"][key]
    axes.axhline(unlimited, **DASHED, label=f"ceiling: unlimited memory, {unlimited:.1f}%")
    belady = [100 * rates["belady", c][key] for c in CAPACITIES]
    axes.plot(x, belady, color="black", linestyle=":", marker="x", label="Belady, who knows the future")
    for i, (policy, name) in enumerate(NAMES.items()):
        values = [100 * rates[policy, c][key] for c in CAPACITIES]
        plots.check_ceiling(f"{name}, {meaning}", values, [unlimited] * len(values))
        plots.series(axes, i, x, values, name)
    lru, best = rates["lru", 3_000_000][key], rates["belady", 3_000_000][key]
    first = all(rates["lru", c][key] >= rates[policy, c][key] for policy in ("lfu", "cost") for c in (3_000_000, 10_000_000))
    title = plots.finding(f"LRU leads from 3 million on, at {lru / best:.0%} of Belady", first and lru < best, counted=True)
    plots.label(axes, title, "capacity (million tokens)", f"{meaning} (%)")
    axes.set_xscale("log")
    axes.set_xticks(x, [f"{c:g}" for c in x])
    axes.minorticks_off()
    axes.set_ylim(0, unlimited * 1.9)
    axes.legend(loc="upper left", frameon=False)
plots.show(fig)

# %% [markdown]
# **The gap** between LRU and Belady is what a better policy could win, at most: at a small capacity the traffic between two
# turns of a chat flushes what the next one needs. The gap from Belady to the dashed line only memory closes. The rates on the
# left are lower, since long prompts weigh more there, and of a long fresh prompt little is found.
#
# ## Why LFU and the cost-aware policy lose
#
# Two questions to the same requests. What tells that a page will be used again within the next 1,000 requests: how often it was
# used, or how long it has been idle? And after three quarters of the replay: what share of the pages in the cache will never be
# asked for again?

# %%
WINDOW = 1000
met = {}  # page -> numbers of the requests that use it
for number, request_ in enumerate(requests):
    for page in request_.pages:
        met.setdefault(page, []).append(number)
seen_long_enough = len(requests) - WINDOW


def chance(after):
    """after(uses, numbers) -> moments at which a page was that often used, or that long idle: share that is used again soon."""
    soon = [following <= moment + WINDOW for moment, following in after if moment < seen_long_enough]
    return 100 * sum(soon) / len(soon)


NEVER = 10**9
pairs = [(k, u, nxt) for at in met.values() for k, (u, nxt) in enumerate(zip(at, [*at[1:], NEVER], strict=True), 1)]
USES, IDLE = (1, 2, 3, 4), (0, 200, 400, 800, 1600, 2400)
by_uses = [chance((u, nxt) for k, u, nxt in pairs if k == uses) for uses in USES]
by_idle = [chance((u + idle, nxt) for _, u, nxt in pairs if nxt > u + idle) for idle in IDLE]


LATE = 3 * len(requests) // 4


def dead_share(name, capacity=3_000_000):
    """Share of the cached pages, at request LATE, that no later request asks for."""
    future = Belady([r.pages for r in requests])
    policy = {"lru": LRU(), "lfu": LFU(), "cost": GreedyDual(EVEN_PAGES), "belady": future}[name]
    kept, found = [], {}

    def make_cache(pool):
        kept.append(RadixCache(pool, policy))
        return kept[0]

    def look(number):
        future.now = number
        if number == LATE:
            pages = [page for node in set(kept[0].home.values()) for page in node.tokens]
            found["share"] = 100 * sum(met[page][-1] < number for page in pages) / len(pages)

    hits(requests[: LATE + 1], capacity // 512, make_cache, look)
    return found["share"]


dead = {name: dead_share(policy) for policy, name in [*NAMES.items(), ("belady", "Belady")]}
print("used again soon, by uses so far:  ", ", ".join(f"{k}: {share:.0f}%" for k, share in zip(USES, by_uses, strict=True)))
print("used again soon, by requests idle:", ", ".join(f"{k}: {share:.0f}%" for k, share in zip(IDLE, by_idle, strict=True)))
print(f"after one use {quote('after 1', f'{by_uses[0]:.0f}%')}, after four {quote('after 4', f'{by_uses[-1]:.0f}%')}; ", end="")
print(f"just used {quote('idle 0', f'{by_idle[0]:.0f}%')}, idle for 2,400 requests {quote('idle 2400', f'{by_idle[-1]:.0f}%')}")
shown = {"LRU": "dead lru", "LFU": "dead lfu", "cost-aware (GreedyDual)": "dead cost", "Belady": "dead belady"}
print("never asked for again: ", ", ".join(f"{name} {quote(shown[name], f'{share:.0f}%')}" for name, share in dead.items()))

# %% tags=["drawing"]
fig, (left, right) = plots.figure(2)
plots.series(left, 0, IDLE, by_idle, "by requests since its last use (what LRU sees)")
for uses, share in zip(USES, by_uses, strict=True):
    meaning = "just used for the 1st, 2nd, 3rd, 4th time" if uses == 1 else None
    left.axhline(share, color="grey", linestyle=":", linewidth=1.2, label=meaning)
steep = all(a > b for a, b in zip(by_idle, by_idle[1:], strict=False)) and by_idle[0] > 4 * by_idle[-1]
title = plots.finding("The longer a page is idle, the less likely it comes back", steep, counted=True)
plots.label(left, title, "requests since the last use", f"used again within {WINDOW:,} requests (%)")
left.set_xticks(IDLE, [f"{idle:,}" for idle in IDLE])
plots.legend(left)
plots.bars(right, [name.replace(" (", "\n(") for name in dead], list(dead.values()), "%")
title = f"LFU fills {dead['LFU']:.0f}% of its memory with what nobody wants again"
title = plots.finding(title, dead["Belady"] < dead["LRU"] < dead["LFU"], counted=True)
plots.label(right, title, "policy, 3 million tokens", "cached pages never asked for again (%)")
right.set_ylim(0, 115)
plots.show(fig)

# %% [markdown]
# **The gap** between Belady and the others on the right is what the past does not tell: which chat is over. LFU keeps pages of
# chats that had many turns and ended; a page that is new has one use and goes first, though its next turn is near. The
# cost-aware policy weighs uses by depth: it saves the time of deep pages, where the picture before counted tokens.
#
# ## When it hurts: a round longer than the cache
#
# LRU has a worst case. Forty documents are asked about in turn, again and again, and the cache holds 39.

# %%
turns = [TraceRequest(10 * 512, 1, tuple(range(10 * (i % 40), 10 * (i % 40) + 10))) for i in range(400)]
lru, best = (f"{row['hit_rate_tokens']:.0%}" for row in replay(turns, (390 * 512,), ("lru", "belady"))["rows"])
print(f"hits of LRU: {quote('round lru', lru)}, of Belady: {quote('round belady', best)}")

# %% [markdown]
# ## What it costs
#
# APIs sell a write for more than plain input, and a read for less. In multiples of the plain price of the prefix.

# %%
k = np.linspace(0, 3, 31)
schemes = {"kept 5 minutes": FIVE_MINUTES, "kept 1 hour": ONE_HOUR}
points = {name: break_even_reuses(s.write, s.read) for name, s in schemes.items()}

# %% tags=["drawing"]
fig, (axes,) = plots.figure(1)
axes.plot(k, 1 + k, **DASHED, label="without caching: 1 + k")
for i, (name, s) in enumerate(schemes.items()):
    plots.series(axes, i, k[::5], s.write + k[::5] * s.read, f"{name}: {s.write:g} + {s.read:g} k")
    axes.plot(points[name], 1 + points[name], "k*", markersize=13)
    axes.annotate(f"{points[name]:.2f}", (points[name], 1 + points[name]), xytext=(-2, 9), textcoords="offset points", ha="right")
soon, late = points.values()
ten = (FIVE_MINUTES.write + 9 * FIVE_MINUTES.read) / 10
title = f"Caching pays after {soon:.2f} reuses, or {late:.2f} for an hour"
plots.label(axes, plots.finding(title, soon < 1 < late < 2, counted=True), "reuses k", "cost of the prefix (× its plain price)")
plots.legend(axes)
plots.show(fig)
print(f"used ten times, a prefix costs {ten:.3f} of its plain price a use; the least is a read, {FIVE_MINUTES.read}")

# %% [markdown]
# **The gap** from a line to the price of reads alone is the premium of the one write: 1.25 or 2 before the first reuse.
#
# The agent of the lesson: 50 steps of 1,000 tokens, each with all that came before. At 3 dollars for a million tokens of
# input, by the prices of [costs/prices.py](../minillm/costs/prices.py) (look up today's):

# %%
agent = sum((Usage(cache_write_tokens=1000, cache_read_tokens=1000 * step) for step in range(50)), Usage())
bill = Prices.from_scheme(3.0, 15.0, FIVE_MINUTES)
print(agent)
plain, cached = (f"{dollars:.2f}" for dollars in (bill.cost_without_cache(agent), bill.cost(agent)))
print(f"{quote('agent plain', plain)} dollars without caching, {quote('agent cached', cached)} with it")

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
