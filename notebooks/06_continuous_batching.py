# %% [markdown]
# # 06 · Continuous batching: nobody waits for the slowest
#
# The lesson ([06_continuous_batching.md](../lessons/06_continuous_batching.md)) claims: a batch that is closed until its
# longest answer ends wastes half of its slots or more; admit waiting requests at every step, and they are filled; cut the
# prompts, and decodes are no longer interrupted. We serve a model in both ways and watch the slots (**measured**),
# then put the same scheduler under a clock that a formula moves (**computed**): exact, and the same on every machine.

# %%
import time
from dataclasses import replace
from statistics import mean, median

from minillm import SamplingParams, plots
from minillm.backends import WORTH_COMPILING, fitting_backend
from minillm.costs.memory import kv_tokens
from minillm.course.notebooks.model_at_hand import model_at_hand
from minillm.engine.engine import Engine
from minillm.load.profiles import draw, load_profile
from minillm.load.workload import arrivals, at_times, token_ids
from minillm.metrics.events import ARRIVED, FINISHED, PREEMPTED, SCHEDULED, TOKEN, EventLog
from minillm.metrics.summary import all_measures, duration
from minillm.model.presets import preset
from minillm.model.transformer import Segment
from minillm.scheduler.plan import StepResult
from minillm.scheduler.request import Request
from minillm.scheduler.scheduler import Scheduler, SchedulerConfig

DASHED = {"color": "black", "linestyle": "--", "linewidth": 1.2}
NAMES = {"static": "static", "orca": "Orca", "vllm": "vLLM", "chunked": "chunked"}

# %% [markdown]
# ## The requests
#
# Lengths are drawn from the project's own profile of ShareGPT. For a laptop they are scaled: answers to an eighth, and
# prompts to a sixty-fourth, since most of such a prompt is the earlier turns of the chat, which a prefix cache holds
# (lesson 05). That leaves about the proportion of the vLLM paper, 161 to 338 tokens.

# %%
profile = load_profile("sharegpt_8k")
SLOTS = 16


def scaled(requests, prompt, output):
    """The same requests, their lengths divided."""
    return [replace(r, prompt=-(-r.prompt // prompt), output=-(-r.output // output)) for r in requests]


def mean_longest(lengths, n):
    """E[max] of n lengths drawn from these: the i-th of N is the largest with probability (i/N)ⁿ − ((i−1)/N)ⁿ."""
    total = len(lengths)
    return sum(x * ((i / total) ** n - ((i - 1) / total) ** n) for i, x in enumerate(sorted(lengths), 1))


small = scaled(draw(profile, 48, seed=7), 64, 8)
outputs = [r.output for r in draw(profile, 4000)]
print(f"{len(small)} requests like those of {profile['source'].split(',')[0]}")
print(f"prompts {mean(r.prompt for r in small):.0f} tokens on average, answers {mean(r.output for r in small):.0f}")
print(f"the longest of {SLOTS} answers is {mean_longest(outputs, SLOTS) / mean(outputs):.2f} times as long as the mean answer")

# %% [markdown]
# ## Measured: the slots of a real engine
#
# All requests are there from the beginning, 16 may run. *Static* closes the door until a batch is done. *Padded* is the same
# as programs with arrays of one shape do it: every prompt of a batch is as long as the longest, and rows that have ended are
# computed to the end of the batch; both is thrown away. *Continuous* is our default, chunked prefill. The ceiling is the
# model alone: all prompts, then full steps of 16 tokens.

# %% tags=["timing"]
llm = model_at_hand(fitting_backend(WORTH_COMPILING))  # numba if it is here: the ratios below depend on the kernels
vocabulary = (100, min(250, llm.config.vocab_size))
prompts = [token_ids(r, i, vocabulary=vocabulary) for i, r in enumerate(small)]


def serve(policy, prompts, lengths):
    """The engine's log, and the answers, of prompts with so many new tokens each."""
    budget = 512 if policy == "chunked" else 4096
    engine = Engine(llm, SchedulerConfig(320, max_sequences=SLOTS, max_tokens_per_step=budget, policy=policy))
    engine.executor.store.k.fill(0), engine.executor.store.v.fill(0)  # the system gives memory when it is first written: slow
    answers = engine.generate(prompts, [SamplingParams(max_tokens=n, ignore_eos=True) for n in lengths])
    return engine.log, [answer.token_ids for (answer,) in answers]


def bare_s(steps=6):
    """Seconds of the model alone: for a token of a prompt, and for a full decode step at the mean length."""
    model, context = llm.transformer, round(mean(r.prompt + r.output / 2 for r in small))
    caches = [model.new_cache(context + steps + 1) for _ in range(SLOTS)]
    prefill, decode = [], []
    for times, tokens in [(prefill, context)] * 2 + [(decode, 1)] * steps:
        if times is prefill:
            caches = [model.new_cache(context + steps + 1) for _ in range(SLOTS)]
        start = time.perf_counter()
        model.forward([Segment([101] * tokens, cache.length, cache) for cache in caches])
        times.append(time.perf_counter() - start)
    return min(prefill) / (SLOTS * context), min(decode)


def longest(values):
    """Each value made as large as the largest of its batch."""
    return [max(values[i // SLOTS * SLOTS :][:SLOTS]) for i in range(len(values))]


new = [r.output for r in small]
padding = zip(prompts, longest([len(p) for p in prompts]), strict=True)
padded = [[101] * (n - len(p)) + p for p, n in padding]
serve("chunked", prompts, [2] * len(new))  # warms up: what is compiled or read for the first time is no speed
prefill_s, step_s = bare_s()
least_s = sum(r.prompt for r in small) * prefill_s + sum(new) * step_s / SLOTS
runs = {
    "padded": serve("static", padded, longest(new)),
    "static": serve("static", prompts, new),
    "continuous": serve("chunked", prompts, new),
}
logs = {name: log for name, (log, _) in runs.items()}
print("same tokens, static and continuous:", runs["static"][1] == runs["continuous"][1])
print(f"{'':12}{'tokens/s':>10}{'of ceiling':>12}{'seconds':>9}{'TTFT p50':>10}{'last':>9}{'TPOT p50':>10}")
for name, log in logs.items():
    found, seconds = all_measures(log), duration(log)
    waits, paces = [m.ttft for m in found], [m.tpot for m in found if m.tpot]
    print(f"{name:12}{sum(new) / seconds:10.0f}{least_s / seconds:12.0%}{seconds:9.1f}{median(waits):9.2f}s{max(waits):8.2f}s"
          f"{1e3 * median(paces):8.1f}ms")  # fmt: skip
print(f"ceiling: {sum(new) / least_s:.0f} tokens/s in {least_s:.1f} s, {1e3 * prefill_s:.2f} ms a prompt token, "
      f"{1e3 * step_s:.1f} ms a step of {SLOTS}")  # fmt: skip
gain = {name: duration(logs[name]) / duration(logs["continuous"]) for name in ("static", "padded")}
print(f"continuous: {gain['static']:.2f} times static, {gain['padded']:.2f} times padded")

# %% [markdown]
# A line of the picture is a slot, a bar a request: black its prompt, blue its tokens, hatched what is computed and thrown
# away. White is a slot that is paid for and idle.


# %%
def stays(log):
    """(slot, [entered, first token, last wanted token, last token]) of each request, in seconds: a function of the log."""
    free, held, start, found = set(range(SLOTS)), {}, log.events[0].time, []
    for e in log.events:
        if e.kind == SCHEDULED:
            held[e.request] = min(free)
            free.remove(held[e.request])
        elif e.kind == FINISHED:
            free.add(held[e.request])
            tokens = log.times(e.request, TOKEN)
            times = log.times(e.request, SCHEDULED)[0], tokens[0], tokens[new[e.request] - 1], tokens[-1]
            found.append((held[e.request], [t - start for t in times]))
    return found


def gantt(axes, found, title, until_s):
    axes.axvline(least_s, ymin=0.15, **DASHED, label="floor: all prompts, then full steps", zorder=5)
    looks = ({"color": "black"}, {"facecolor": plots.COLOURS[5], "edgecolor": "black"},
             {"facecolor": "white", "edgecolor": "grey", "hatch": "////"})  # fmt: skip
    for slot, times in found:
        for start, end, look in zip(times, times[1:], looks, strict=False):
            axes.barh(slot, end - start, left=start, height=0.85, linewidth=0.5, **look)
    axes.set_xlim(0, until_s)
    axes.set_ylim(SLOTS + 2.2, -0.7)  # room below for the legend
    axes.set_yticks(range(0, SLOTS, 5))
    axes.grid(False)
    axes.legend(loc="lower right", frameon=False)
    plots.label(axes, title, "time (s)", "slot")


# %% tags=["timing", "drawing"]
fig, panels = plots.figure(3, width=4.4, height=3.6)
for axes, name in zip(panels, logs, strict=True):
    found, seconds = stays(logs[name]), duration(logs[name])
    idle = 1 - sum(wanted - entered for _, (entered, _, wanted, _) in found) / (SLOTS * seconds)
    title = f"{name.capitalize()}: {idle:.0%} of slots wasted, {seconds:.1f} s"
    gantt(axes, found, title, 1.05 * duration(logs["padded"]))
plots.show(fig)

# %% [markdown]
# **The gap** between continuous and the floor is its end, when nobody is left to take a slot, and prompts that come one by
# one: a few tokens do not run through a product at the speed of hundreds. Static has an end after every batch. What an idle
# slot costs, the machine decides: two cores are busy with a few rows, so a step with 4 is much shorter than one with 16, and
# static loses less than its idle slots could have earned; padded pays for all of them. Where reading the weights is the whole
# step, as on the GPU below, an idle slot costs as much as a busy one, padded or not.
#
# ## Computed: the same scheduler, and a clock of a few lines
#
# A step is a sum over kernels: products (the slower of reading the weights once and of their arithmetic), attention of the
# decodes (reading their keys and values), attention of the prompts (its arithmetic). Llama-3-8B in 16 bits on an A100 SXM of
# 80 GB, by its data sheet 2,039 GB/s and 312 TFLOP/s. The scheduler does not know that no model runs.

# %%
CARD = {"bytes_per_s": 2.039e12, "flops_per_s": 312e12, "link_bytes_per_s": 25e9, "memory": 80e9}
shape = preset("llama-3-8b")
BLOCKS = int(kv_tokens(shape, CARD["memory"]) // 16)


def seconds_of(plan):
    """What a step takes at least on the card; blocks that are swapped cross the bus."""
    per_token, tokens = shape.kv_bytes_per_token(), sum(len(share.tokens) for share in plan.shares)
    flops = shape.product_flops(tokens, sum(bool(share.draws) for share in plan.shares))
    products = max(shape.decode_bytes(0) / CARD["bytes_per_s"], flops / CARD["flops_per_s"])
    attention = 0.0
    for share in plan.shares:
        read = per_token * (share.position + len(share.tokens)) / CARD["bytes_per_s"]
        computed = shape.prefill_attention_flops(len(share.tokens), share.position) / CARD["flops_per_s"]
        attention += max(read, computed)
    swapped = 16 * per_token * (len(plan.swaps_out) + len(plan.swaps_in))
    return products + attention + swapped / CARD["link_bytes_per_s"]


def simulate(requests, cost=seconds_of, **limits):
    """The log of these requests, each of which arrives at its time, and the scheduler's steps take `cost`."""
    now, coming = 0.0, list(enumerate(requests))[::-1]
    log = EventLog(clock=lambda: now)
    defaults = {"num_blocks": BLOCKS, "max_sequences": SLOTS, "max_tokens_per_step": 8192}
    scheduler = Scheduler(SchedulerConfig(**defaults | limits))
    while coming or scheduler.has_work:
        end_of_step = now if scheduler.has_work else max(now, coming[-1][1].arrival)
        while coming and coming[-1][1].arrival <= end_of_step:
            number, request = coming.pop()
            now = request.arrival
            log.add(number, ARRIVED, request.prompt)
            scheduler.add(Request(number, [number] * request.prompt, request.output))
        now = end_of_step
        plan = scheduler.schedule()
        now += cost(plan)
        for sequence in plan.preempted:
            log.add(sequence.request, PREEMPTED)
        drawn = [sequence for share in plan.shares for sequence in share.draws]
        for sequence in drawn:
            log.add(sequence.request, TOKEN)
        for sequence in scheduler.update(plan, StepResult(dict.fromkeys(drawn, 0))):
            log.add(sequence.request, FINISHED)
    return log


full = draw(profile, 96, seed=1)
context = round(mean(r.prompt + r.output / 2 for r in full))
step = shape.decode_bytes(context, SLOTS) / CARD["bytes_per_s"]
prompt_s = mean(shape.prefill_flops(r.prompt) for r in full) / CARD["flops_per_s"]
print(f"prompts {mean(r.prompt for r in full):,.0f} tokens on average, answers {mean(r.output for r in full):,.0f}")
print(f"a step of {SLOTS} decodes {1e3 * step:.1f} ms, the mean prompt {1e3 * prompt_s:.0f} ms; {BLOCKS:,} blocks in the pool")

# %% [markdown]
# ## TTFT and throughput against offered load
#
# Poisson arrivals, full lengths. The ceiling is a batched step that never meets a prompt; the dotted line, what is asked.

# %%
RATES = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
BUDGETS = {"chunked": 512}  # the others take a prompt whole


def at_rate(rate, **limits):
    return simulate(at_times(full, arrivals(len(full), rate, seed=2)), **limits)


waits, speeds = {}, {}
for policy in NAMES:
    found = [at_rate(rate, policy=policy, max_tokens_per_step=BUDGETS.get(policy, 8192)) for rate in RATES]
    waits[policy] = [median(m.ttft for m in all_measures(log)) for log in found]
    speeds[policy] = [sum(m.new_tokens for m in all_measures(log)) / duration(log) for log in found]
print(f"{'requests/s':>10}" + "".join(f"{name + ' TTFT':>14}{'tokens/s':>10}" for name in NAMES.values()))
for i, rate in enumerate(RATES):
    print(f"{rate:10}" + "".join(f"{waits[p][i]:13.2f}s{speeds[p][i]:10.0f}" for p in NAMES))

# %% tags=["drawing"]
fig, (left, right) = plots.figure(2)
left.axhline(median(shape.prefill_flops(r.prompt) for r in full) / CARD["flops_per_s"], **DASHED,
             label="floor: FLOPs of the median prompt / FLOP/s")  # fmt: skip
top = SLOTS / step
plots.ceiling(right, top, f"ceiling: {SLOTS} tokens / batched step")
right.plot(RATES, [sum(r.output for r in full) / arrivals(len(full), rate, seed=2)[-1] for rate in RATES], color="grey",
           linestyle=":", label="asked for")  # fmt: skip
for i, (policy, name) in enumerate(NAMES.items()):
    plots.series(left, i, RATES, waits[policy], name)
    plots.series(right, i, RATES, speeds[policy], name)
most = speeds["chunked"][-1] / speeds["static"][-1]
ratio = waits["static"][2] / waits["chunked"][2]
title = f"At {RATES[2]} requests/s static makes users wait {ratio:.0f} times as long"
plots.label(left, title, "offered load (requests/s)", "median TTFT (s)")
left.set_yscale("log")
left.set_ylim(0.05, 200)
left.set_yticks([0.1, 1, 10], ["0.1", "1", "10"])
left.legend(loc="upper left", frameon=False, fontsize=9)
title = f"Under full load continuous gives {most:.1f} times the tokens"
plots.label(right, title, "offered load (requests/s)", "throughput (tokens/s)")
right.set_ylim(0, top * 1.2)
right.legend(loc="lower right", frameon=False, fontsize=9)
plots.show(fig)

# %% [markdown]
# **The gap** to the ceiling is prompts: a step that computes one takes many times as long. Chunked comes nearest since its
# steps do both: one reading of the weights serves the decodes and a piece of prompt, whose arithmetic it hides.
#
# ## Cut the prompts: the worst gap between two tokens
#
# The same at a load that all policies stand. A decode beside another request's prompt has a longer gap. Its floor is the
# step itself: one reading of the weights, or the arithmetic of as many tokens as the budget allows.

# %%
LOAD, CUTS, WHOLE = 1.0, (64, 128, 256, 512, 1024, 2048), max(r.prompt for r in full)
tried = {("chunked", cut): at_rate(LOAD, max_tokens_per_step=cut) for cut in CUTS}
tried |= {(policy, WHOLE): at_rate(LOAD, policy=policy) for policy in ("orca", "vllm")}
worst = {key: 1e3 * max(m.itl for m in all_measures(log) if m.itl) for key, log in tried.items()}
first = {key: sorted(1e3 * m.ttft for m in all_measures(log)) for key, log in tried.items()}
ninth = len(full) * 9 // 10
print(f"{'policy':>8}{'budget':>9}{'worst gap':>12}{'TTFT p50':>12}{'p90':>10}")
for policy, cut in tried:
    middle, slow = median(first[policy, cut]), first[policy, cut][ninth]
    print(f"{policy:>8}{cut:9,}{worst[policy, cut]:10.0f}ms{middle:10.0f}ms{slow:8.0f}ms")

# %% tags=["drawing"]
fig, (left, right) = plots.figure(2)
x = (*CUTS, WHOLE)
floor = [1e3 * max(shape.decode_bytes(0) / CARD["bytes_per_s"], shape.prefill_flops(n) / CARD["flops_per_s"]) for n in x]
left.plot(x, floor, **DASHED, label="floor: max(bytes / bandwidth, FLOPs of the budget / FLOP/s)")
prompt_ms = sorted(1e3 * shape.prefill_flops(r.prompt) / CARD["flops_per_s"] for r in full)
right.axhline(prompt_ms[ninth], **DASHED, label="floor: FLOPs of such a prompt / FLOP/s")
for axes, values in ((left, worst), (right, {key: ordered[ninth] for key, ordered in first.items()})):
    plots.series(axes, 3, CUTS, [values["chunked", cut] for cut in CUTS], "chunked")
    plots.series(axes, 1, [WHOLE], [values["orca", WHOLE]], "Orca, whole prompts")
    plots.series(axes, 2, [WHOLE], [values["vllm", WHOLE]], "vLLM, whole prompts")
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(x, [f"{n:,}" for n in x])
    axes.minorticks_off()
title = f"Chunks of 256: the worst pause is {worst['vllm', WHOLE] / worst['chunked', 256]:.0f} times shorter"
plots.label(left, title, "token budget of a step", "worst gap between two tokens (ms)")
left.set_ylim(5, 10_000)
left.set_yticks([10, 100, 1000], ["10", "100", "1,000"])
left.legend(loc="upper left", frameon=False, fontsize=9)
starved = first["chunked", 64][ninth] / first["chunked", 512][ninth]
title = f"Too small a budget starves prompts: {starved:.0f} times the wait at 64"
plots.label(right, title, "token budget of a step", "TTFT, 90th percentile (ms)")
right.set_yticks([200, 500, 1000, 2000, 5000], ["200", "500", "1,000", "2,000", "5,000"])
right.legend(loc="upper right", frameon=False, fontsize=9)
plots.show(fig)

# %% [markdown]
# **The gap** to the left floor is attention: the last chunk of a long prompt looks back at all of it. On the right it is the
# queue, and with small budgets the weights, read again for each chunk: where the floor on the left is flat, a larger chunk
# costs nothing, so the budget belongs where the floor bends.
#
# ## How much is a full batch worth, and a full memory?
#
# Left: every step costs the same, however many slots it fills, and prompts cost nothing: then static needs the longest of
# each batch, E[max], and continuous the mean. Right: a pool that becomes too small for 64 slots. A request that needs a
# block preempts the one that was admitted last, which is recomputed later or swapped; the careful scheduler keeps a fifth of
# the pool free at admission instead.

# %%
SIZES = (1, 2, 4, 8, 16, 32)
lengths = [r.output for r in scaled(draw(profile, 4000), 1, 8)]


def steps_of(policy, batch):
    """Steps for 24 batches of answers alone."""
    answers = [replace(r, prompt=1, arrival=0.0) for r in scaled(draw(profile, 24 * batch, seed=3), 1, 8)]
    return duration(simulate(answers, lambda plan: 1.0, policy=policy, max_sequences=batch))


gains = [steps_of("static", batch) / steps_of("orca", batch) for batch in SIZES]
formula = [mean_longest(lengths, batch) / mean(lengths) for batch in SIZES]
for name, values in {"slots": SIZES, "formula": formula, "simulated": gains}.items():
    print(f"{name:10}", *(f"{value:6.3g}" for value in values))

POOLS = (250, 375, 500, 750, 1000, 1500)
WAYS = {
    "recompute": {"preemption": "recompute"},
    "swap": {"preemption": "swap", "host_blocks": 20_000},
    "careful": {"preemption": "recompute", "watermark": 5},
}
short = [replace(r, arrival=0.0) for r in scaled(draw(profile, 128, seed=5), 16, 2)]


def in_pool(blocks, **limits):
    """Tokens per second, and preemptions, of 64 slots with so many blocks."""
    limits |= {"watermark": blocks // limits["watermark"]} if "watermark" in limits else {}
    log = simulate(short, num_blocks=blocks, max_sequences=64, max_tokens_per_step=512, **limits)
    return sum(r.output for r in short) / duration(log), sum(e.kind == PREEMPTED for e in log.events)


enough, _ = in_pool(BLOCKS)
paces = {name: [in_pool(blocks, **way) for blocks in POOLS] for name, way in WAYS.items()}
print(f"\n{'blocks':>10}" + "".join(f"{name + ' tokens/s':>20}{'preempted':>11}" for name in WAYS))
for i, blocks in enumerate(POOLS):
    print(f"{blocks:10,}" + "".join(f"{found[i][0]:20,.0f}{found[i][1]:11}" for found in paces.values()))

# %% tags=["drawing"]
fig, (left, right) = plots.figure(2)
left.plot(SIZES, formula, **DASHED, label="formula: E[max of B] / E[mean]")
plots.series(left, 0, SIZES, gains, "steps of static / steps of continuous")
title = f"At {SIZES[-1]} slots static needs {gains[-1]:.1f} times the steps"
plots.label(left, title, "slots B", "decode steps, static / continuous")
left.set_xscale("log", base=2)
left.set_xticks(SIZES, [str(n) for n in SIZES])
left.minorticks_off()
plots.legend(left)
plots.ceiling(right, enough, "ceiling: memory for all 64")
for i, (name, found) in enumerate(paces.items()):
    plots.series(right, i, POOLS, [pace for pace, _ in found], name)
(pace, times), (caution, _) = paces["recompute"][1], paces["careful"][1]
title = f"To preempt {times} times is {pace / caution - 1:.0%} faster than to be careful"
plots.label(right, title, "blocks of 16 tokens in the pool", "throughput (tokens/s)")
right.set_ylim(0, enough * 1.2)
right.legend(loc="lower right", frameon=False)
plots.show(fig)

# %% [markdown]
# **The gap** on the left is the end of the run, when nobody waits any more. On the right it is the weights: fewer fit, so they
# are read for fewer tokens. What is computed twice or swapped is a small part of that, and to keep blocks free costs more.
#
# ## Try it
#
# When does static batching suffice? Predict, then move. (Needs `ipywidgets`.)

# %% tags=["skip-execution"]
from ipywidgets import interact


@interact(policy=list(NAMES), rate=(0.2, 4.0, 0.2), slots=(1, 64), budget=(64, 2048, 64))
def serve_on_paper(policy="chunked", rate=1.0, slots=16, budget=512):
    budget = max(budget, slots) if policy == "chunked" else 8192
    log = at_rate(rate, policy=policy, max_sequences=slots, max_tokens_per_step=budget)
    found = all_measures(log)
    print(f"median TTFT {median(m.ttft for m in found):.2f} s, worst gap {1e3 * max(m.itl for m in found if m.itl):.0f} ms, "
          f"{sum(m.new_tokens for m in found) / duration(log):.0f} tokens/s")  # fmt: skip
