# %% [markdown]
# # 06 · Continuous batching: nobody waits for the slowest
#
# The lesson ([06_continuous_batching.md](../lessons/06_continuous_batching.md)) claims three things. A batch that stays closed
# until its longest answer ends leaves half of its slots empty. A scheduler that admits waiting requests at every step fills
# them. And a long prompt that is cut into pieces no longer interrupts the others. We serve a model both ways and watch the
# slots (**measured**). Then we put the same scheduler under a clock that a formula moves (**computed**): it is exact, and the
# same on every machine.

# %%
import time
from dataclasses import replace
from statistics import mean, median

from minillm import SamplingParams, plots
from minillm.backends import WORTH_COMPILING, fitting_backend
from minillm.bench.rounds import in_turn
from minillm.bench.steps import decode_seconds
from minillm.costs.memory import kv_tokens
from minillm.costs.time import decode_time, prefill_time, step_time, swap_time
from minillm.course.notebooks.figures import quote
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
DOTTED = {"color": "grey", "linestyle": ":", "linewidth": 1.6}
NAMES = {"static": "static", "orca": "Orca", "vllm": "prefill first (vLLM 2023)", "chunked": "chunked"}


def finish(axes, title, holds, x, y, where):
    """A title that counts prove, what the axes show, and the legend."""
    plots.label(axes, plots.finding(title, holds, counted=True), x, y)
    axes.legend(loc=where, frameon=False, fontsize=9)


# %% [markdown]
# ## The requests
#
# Lengths are drawn from the project's own profile of ShareGPT. For a laptop they are scaled down: answers to a thirtieth, and
# prompts to a 128th, since most of such a prompt is the earlier turns of the chat, which a prefix cache holds (lesson 05).

# %%
profile = load_profile("sharegpt_8k")
SEATS = 8  # slots of the measured engine


def scaled(requests, prompt, output):
    """The same requests, their lengths divided."""
    return [replace(r, prompt=-(-r.prompt // prompt), output=-(-r.output // output)) for r in requests]


def mean_longest(lengths, n):
    """E[max] of n lengths drawn from these: the i-th of N is the largest with probability (i/N)ⁿ − ((i−1)/N)ⁿ."""
    total = len(lengths)
    return sum(x * ((i / total) ** n - ((i - 1) / total) ** n) for i, x in enumerate(sorted(lengths), 1))


small = scaled(draw(profile, 24, seed=7), 128, 30)
outputs = [r.output for r in draw(profile, 4000)]
longest_of = mean_longest(outputs, 16) / mean(outputs)
print(f"{len(small)} requests like those of {profile['source'].split(',')[0]}")
print(f"prompts {mean(r.prompt for r in small):.0f} tokens on average, answers {mean(r.output for r in small):.0f}")
print(f"the longest of 16 answers is {quote('longest_of_16', f'{longest_of:.1f}')} times as long as the mean answer")

# %% [markdown]
# ## Measured: the slots of a real engine
#
# All requests are there from the beginning, 8 may run. *Static* admits nobody until a batch is done. *Padded* does the same as
# programs with arrays of one shape do it: every prompt of a batch is as long as the longest, and rows that have ended are
# computed to the end of the batch; the surplus is thrown away. *Continuous* is our default, chunked prefill. The floor is the
# model alone: all prompts, then full steps of 8 tokens. Each is run three times, in turn, so that noise hits all.

# %% tags=["timing"]
llm = model_at_hand(fitting_backend(WORTH_COMPILING))  # numba if it is here: the ratios below depend on the kernels
vocabulary = (100, min(250, llm.config.vocab_size))
prompts = [token_ids(r, i, vocabulary=vocabulary) for i, r in enumerate(small)]


def serve(policy, prompts, lengths):
    """The engine's log, and the answers, of prompts with so many new tokens each."""
    budget = 512 if policy == "chunked" else 4096
    engine = Engine(llm, SchedulerConfig(160, max_sequences=SEATS, max_tokens_per_step=budget, policy=policy))
    engine.executor.store.k.fill(0), engine.executor.store.v.fill(0)  # the system gives memory when it is first written: slow
    answers = engine.generate(prompts, [SamplingParams(max_tokens=n, ignore_eos=True) for n in lengths])
    return engine.log, [answer.token_ids for (answer,) in answers]


def bare_s(steps=6):
    """Seconds of the model alone: for a token of a prompt, and for a full decode step at the mean length."""
    model, context = llm.transformer, round(mean(r.prompt + r.output / 2 for r in small))
    prefill, caches = [], []
    for _ in range(2):
        caches = [model.new_cache(context + steps) for _ in range(SEATS)]
        start = time.perf_counter()
        model.forward([Segment([101] * context, 0, cache) for cache in caches])
        prefill.append(time.perf_counter() - start)
    return min(prefill) / (SEATS * context), min(decode_seconds(model, caches, steps))


def longest(values):
    """Each value made as large as the largest of its batch."""
    return [max(values[i // SEATS * SEATS :][:SEATS]) for i in range(len(values))]


new = [r.output for r in small]
padded = [[101] * (n - len(p)) + p for p, n in zip(prompts, longest([len(p) for p in prompts]), strict=True)]
served = {"padded": ("static", padded, longest(new)), "static": ("static", prompts, new), "continuous": ("chunked", prompts, new)}
serve("chunked", prompts[:SEATS], [2] * SEATS)  # warms up: what is compiled or read for the first time is no speed
alone = [bare_s()]
rounds = in_turn(served, 3, lambda name: serve(*served[name]))
alone.append(bare_s())
prefill_s, step_s = map(min, zip(*alone, strict=True))
least_s = sum(r.prompt for r in small) * prefill_s + sum(new) * step_s / SEATS
runs = {name: sorted(found, key=lambda run: duration(run[0])) for name, found in rounds.items()}
logs = {name: run[1][0] for name, run in runs.items()}  # the median of three
taken = {name: [duration(log) for log, _ in run] for name, run in runs.items()}
paces = {name: [sum(new) / seconds for seconds in times] for name, times in taken.items()}
print("same tokens, static and continuous:", rounds["static"][0][1] == rounds["continuous"][0][1])
print(f"{'':12}{'tokens/s':>10}{'of ceiling':>12}{'seconds, three runs':>22}{'TTFT p50':>10}{'last':>9}{'TPOT p50':>10}")
for name, log in logs.items():
    found, times = all_measures(log), " ".join(f"{seconds:.2f}" for seconds in taken[name])
    waits, flows = [m.ttft for m in found], [m.tpot for m in found if m.tpot]
    print(f"{name:12}{paces[name][1]:10.0f}{least_s / taken[name][1]:12.0%}{times:>22}{median(waits):9.2f}s{max(waits):8.2f}s"
          f"{1e3 * median(flows):8.1f}ms")  # fmt: skip
print(f"ceiling: {sum(new) / least_s:.0f} tokens/s in {least_s:.1f} s, {1e3 * prefill_s:.2f} ms a prompt token, "
      f"{1e3 * step_s:.1f} ms a step of {SEATS}")  # fmt: skip
gain = {name: taken[name][1] / taken["continuous"][1] for name in ("static", "padded")}
ratios = quote("gain_cpu", f"{gain['static']:.2f}"), quote("gain_padded", f"{gain['padded']:.1f}")
print("continuous: {} times static, {} times padded".format(*ratios))

# %% [markdown]
# A line of the picture is a slot, a bar a request: black its prompt, blue its tokens. White is a slot that is paid for and idle.


# %%
def stays(log):
    """(slot, [entered, first token, last token]) of each request, in seconds: a function of the log."""
    free, held, start, found = set(range(SEATS)), {}, log.events[0].time, []
    for e in log.events:
        if e.kind == SCHEDULED:
            held[e.request] = min(free)
            free.remove(held[e.request])
        elif e.kind == FINISHED:
            free.add(held[e.request])
            tokens = log.times(e.request, TOKEN)
            times = log.times(e.request, SCHEDULED)[0], tokens[0], tokens[-1]
            found.append((held[e.request], [t - start for t in times]))
    return found


def gantt(axes, found, title, until_s):
    axes.axvline(least_s, ymin=0.15, **DASHED, label="floor: all prompts, then full steps", zorder=5)
    looks = {"color": "black"}, {"facecolor": plots.COLOURS[5], "edgecolor": "black"}
    for slot, times in found:
        for start, end, look in zip(times, times[1:], looks, strict=False):
            axes.barh(slot, end - start, left=start, height=0.85, linewidth=0.5, **look)
    axes.set_xlim(0, until_s)
    axes.set_ylim(SEATS + 1.2, -0.7)  # room below for the legend
    axes.set_yticks(range(SEATS))
    axes.grid(False)
    axes.legend(loc="lower right", frameon=False)
    plots.label(axes, title, "time (s)", "slot")


# %% tags=["timing", "drawing"]
fig, (left, middle, right) = plots.figure(3, width=4.4, height=3.6)
found = {name: stays(logs[name]) for name in ("static", "continuous")}
idle = {name: 1 - sum(b - a for _, (a, _, b) in found[name]) / (SEATS * taken[name][1]) for name in found}
emptier = idle["static"] > idle["continuous"]
for axes, name in ((left, "static"), (middle, "continuous")):
    title = plots.finding(f"{name.capitalize()}: {idle[name]:.0%} of the slots idle", emptier)
    gantt(axes, found[name], title, 1.1 * taken["static"][1])
    plots.check_floor(name, taken[name], [least_s] * 3)
middles = {name: pace[1] for name, pace in paces.items()}
title = plots.finding(f"Continuous: {gain['static']:.2f} times static's pace", gain["static"] > 1)
plots.throughput_plot(right, middles, title, (sum(new) / least_s, "ceiling: the model alone"))
plots.spread_bars(right, list(paces.values()))
plots.show(fig)
print("slots idle: static", quote("idle_static", f"{idle['static']:.0%}"), f"and continuous {idle['continuous']:.0%}")

# %% [markdown]
# **The gap** between continuous and the ceiling is the end of the run, when nobody is left to take a slot, and prompts that come
# one by one: a few tokens do not run through a product at the speed of hundreds. Static has such an end after every batch.
# What an idle slot costs, the machine decides. Two cores are busy with a few rows, so a step with 2 tokens is much shorter than
# one with 8, and static loses less time than slots. Padded computes all of them. Where reading the weights is the whole step,
# as on the GPU below, an idle slot costs as much as a busy one. (Black strokes: the three runs.)
#
# ## Two formulas: empty slots, and what a step takes
#
# Left: every step costs the same, and prompts cost nothing; static then needs the longest of each batch, E[max], and continuous
# the mean. Right: the lesson's example, Llama-3-8B on an H100 (989 TFLOP/s, 3.35 TB/s) with 32 decodes of 1,000 tokens each and
# a growing piece of prompt. A step is a sum over kernels that run one after another.

# %%
shape = preset("llama-3-8b")
CARD = {"bytes_per_s": 2.039e12, "flops_per_s": 312e12, "link_bytes_per_s": 25e9, "memory": 80e9}  # an A100 SXM of 80 GB
SLOTS = 16
BLOCKS = int(kv_tokens(shape, CARD["memory"]) // 16)


def seconds_of(plan):
    """What a step takes at least on the card: `step_time`, and blocks that are swapped cross the bus.

    Several pieces of prompts in one step count as one. Its `cached` is chosen such that its attention is theirs together.
    """
    spans = [(len(share.tokens), share.position) for share in plan.shares]
    decodes = [position + 1 for n, position in spans if n == 1]
    pieces = [(n, position) for n, position in spans if n > 1]
    chunk, cached = sum(n for n, _ in pieces), 0
    if pieces:
        cached = (sum(n * p + n * (n + 1) / 2 for n, p in pieces) - chunk * (chunk + 1) / 2) / chunk
    context = sum(decodes) / max(1, len(decodes))
    step = step_time(shape, CARD["flops_per_s"], CARD["bytes_per_s"], len(decodes), context, chunk, cached)
    return step + swap_time(shape, 16 * (len(plan.swaps_out) + len(plan.swaps_in)), CARD["link_bytes_per_s"])


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
        for sequence in scheduler.update(plan, StepResult({sequence: [0] for sequence in drawn})):
            log.add(sequence.request, FINISHED)
    return log


SIZES = (1, 2, 4, 8, 16, 32)
lengths = [r.output for r in scaled(draw(profile, 4000), 1, 16)]


def steps_of(policy, batch):
    """Steps for 24 batches of answers alone."""
    answers = [replace(r, prompt=1, arrival=0.0) for r in scaled(draw(profile, 24 * batch, seed=3), 1, 16)]
    return duration(simulate(answers, lambda plan: 1.0, policy=policy, max_sequences=batch))


gains = [steps_of("static", batch) / steps_of("orca", batch) for batch in SIZES]
formula = [mean_longest(lengths, batch) / mean(lengths) for batch in SIZES]
for name, values in {"slots": SIZES, "formula": formula, "simulated": gains}.items():
    print(f"{name:10}", *(f"{value:6.3g}" for value in values))

H100 = {"flops": 989e12, "bandwidth": 3.35e12}
CHUNKS = (0, 64, 128, 192, 256, 320, 384, 480, 640, 800)


def step_ms(chunk, cached=0):
    return 1e3 * step_time(shape, **H100, batch=32, context=1000, chunk=chunk, cached=cached)


def fused_ms(chunk):
    """If one kernel did all at once, and every byte were read behind the arithmetic: one maximum."""
    read = shape.decode_bytes(0) + 32 * 1000 * shape.kv_bytes_per_token()
    flops = shape.product_flops(32 + chunk, 33) + shape.prefill_attention_flops(chunk)
    return 1e3 * max(read / H100["bandwidth"], flops / H100["flops"])


reading = decode_time(shape, H100["bandwidth"])
free = max(n for n in range(512) if shape.product_flops(32 + n, 33) / H100["flops"] <= reading)
print(f"\na step of 32 decodes takes {quote('step_ms', f'{step_ms(0):.1f}')} ms, of which {1e3 * reading:.1f} read weights")
print(f"{quote('free_tokens', free)} prompt tokens ride free: {step_ms(free):.2f} ms; with 480 {step_ms(480):.1f} ms, "
      f"as the last of 4,000 {quote('worst_512', f'{step_ms(480, 3360):.1f}')} ms")  # fmt: skip
print(f"a whole prompt of 4,000 makes it {quote('stall_ms', f'{step_ms(4000):.0f}')} ms")

# %% tags=["drawing"]
fig, (left, right) = plots.figure(2)
left.plot(SIZES, formula, **DASHED, label="formula: E[max of B] / E[mean]")
plots.series(left, 0, SIZES, gains, "steps of static / steps of continuous")
near = all(abs(gain / wanted - 1) < 0.1 for gain, wanted in zip(gains, formula, strict=True))
near = near and gains[-1] > 1.8
title = plots.finding(f"At {SIZES[-1]} slots static needs {gains[-1]:.1f} times the steps", near, counted=True)
plots.label(left, title, "slots B", "decode steps, static / continuous")
left.set_xscale("log", base=2)
left.set_xticks(SIZES, [str(n) for n in SIZES])
left.minorticks_off()
plots.legend(left)
times = [step_ms(n) for n in CHUNKS]
right.plot(CHUNKS, [fused_ms(n) for n in CHUNKS], **DASHED, label="floor of one kernel that fuses all: max(bytes, FLOPs)")
right.axvline(free, **DOTTED)
plots.series(right, 1, CHUNKS, times, "kernels in turn: a sum, each with its own max")
plots.check_floor("a step", times, [fused_ms(n) for n in CHUNKS])
rides = step_ms(free) < 1.01 * step_ms(0) and step_ms(free + 64) > 1.05 * step_ms(0)
title = plots.finding(f"Beside 32 decodes, {free} prompt tokens ride free", rides, counted=True)
plots.label(right, title, "prompt tokens in the step", "step (ms)")
plots.legend(right)
plots.show(fig)

# %% [markdown]
# **The gap** on the left is the end of the run, when nobody waits any more. On the right it is time in which only memory or only
# the multipliers work: while attention reads caches, no product runs. A kernel that does both at once (POD-attention) gains
# some of it; the engines of this project run kernels in turn.
#
# ## Computed: TTFT and throughput against offered load
#
# Now the scheduler is real and the clock is `step_time`, on an A100 by its data sheet (2,039 GB/s, 312 TFLOP/s). Poisson
# arrivals, full lengths, 16 slots. The ceiling is a batched step that never meets a prompt; the dotted line, what is asked for.

# %%
full = draw(profile, 48, seed=1)
context = round(mean(r.prompt + r.output / 2 for r in full))
step = decode_time(shape, CARD["bytes_per_s"], context=context, batch=SLOTS)
prompt_s = mean(prefill_time(shape, r.prompt, CARD["flops_per_s"]) for r in full)
print(f"prompts {mean(r.prompt for r in full):,.0f} tokens on average, answers {mean(r.output for r in full):,.0f}")
print(f"a step of {SLOTS} decodes {1e3 * step:.1f} ms, the mean prompt {1e3 * prompt_s:.0f} ms; {BLOCKS:,} blocks in the pool")
RATES = (1.0, 1.5, 2.0, 3.0)
WHOLE = 8192  # a budget that takes every prompt whole
kept = {}  # (rate, policy, budget) -> log


def at_rate(rate, policy, budget):
    if (key := (rate, policy, budget)) not in kept:
        requests = at_times(full, arrivals(len(full), rate, seed=2))
        kept[key] = simulate(requests, policy=policy, max_tokens_per_step=budget)
    return kept[key]


waits, speeds = {}, {}
for policy in NAMES:
    found = [at_rate(rate, policy, 512 if policy == "chunked" else WHOLE) for rate in RATES]
    measures = [all_measures(log) for log in found]
    waits[policy] = [median(m.ttft for m in each) for each in measures]
    speeds[policy] = [sum(m.new_tokens for m in each) / duration(log) for log, each in zip(found, measures, strict=True)]
print(f"{'requests/s':>10}" + "".join(f"{name.split(' (')[0] + ' TTFT':>20}{'tokens/s':>10}" for name in NAMES.values()))
for i, rate in enumerate(RATES):
    print(f"{rate:10}" + "".join(f"{waits[p][i]:19.2f}s{speeds[p][i]:10.0f}" for p in NAMES))
most, least = (speeds["chunked"][i] / speeds["static"][i] for i in (-1, 0))
ratio = waits["static"][2] / waits["chunked"][2]
print(f"chunked against static: {quote('gain_load', f'{most:.1f}')} times the tokens at {RATES[-1]} requests/s, "
      f"{quote('gain_idle', f'{least:.2f}')} times at {RATES[0]}")  # fmt: skip
print(f"static's TTFT at {RATES[2]} requests/s: {quote('wait_ratio', f'{ratio:.0f}')} times chunked's")

# %% tags=["drawing"]
fig, (left, right) = plots.figure(2)
floor = median(prefill_time(shape, r.prompt, CARD["flops_per_s"]) for r in full)
left.axhline(floor, **DASHED, label="floor: FLOPs of the median prompt / FLOP/s")
top = SLOTS / step
plots.ceiling(right, top, f"ceiling: {SLOTS} tokens / batched step")
right.plot(RATES, [sum(r.output for r in full) / arrivals(len(full), rate, seed=2)[-1] for rate in RATES], **DOTTED,
           label="asked for")  # fmt: skip
for i, (policy, name) in enumerate(NAMES.items()):
    plots.series(left, i, RATES, waits[policy], name)
    plots.series(right, i, RATES, speeds[policy], name)
    plots.check_floor(name, waits[policy], [floor] * len(RATES))
    plots.check_ceiling(name, speeds[policy], [top] * len(RATES))
left.set_xticks(RATES)
right.set_xticks(RATES)
plots.log_heights(left, [0.1, 1, 10], 0.03, 300)
right.set_ylim(0, top * 1.2)
title = f"At {RATES[2]:.0f} requests/s static makes users wait {ratio:.0f} times as long"
finish(left, title, ratio > 5, "offered load (requests/s)", "median TTFT (s)", "upper left")
title = f"Under full load chunked gives {most:.1f} times static's tokens"
finish(right, title, most > 1.25, "offered load (requests/s)", "throughput (tokens/s)", "lower right")
plots.show(fig)

# %% [markdown]
# **The gap** to the ceiling is prompts: a step that computes one takes many times as long. Chunked comes nearest, since one
# reading of the weights serves the decodes and a piece of a prompt. The gap of TTFT to its floor is the queue.
#
# ## Cut the prompts: the worst gap between two tokens
#
# The same at one request a second, which all policies stand. A decode beside another request's prompt has a longer gap. Its
# floor is the step itself: one reading of the weights, or the arithmetic of as many tokens as the budget allows.

# %%
LOAD, CUTS, LONGEST = 1.0, (64, 128, 256, 512, 1024, 2048), max(r.prompt for r in full)
tried = {("chunked", cut): at_rate(LOAD, "chunked", cut) for cut in CUTS}
tried |= {(policy, LONGEST): at_rate(LOAD, policy, WHOLE) for policy in ("orca", "vllm")}


def tail(log):
    """Gaps between tokens, of all requests together: mean, 99th percentile and the longest, in ms."""
    gaps = sorted(1e3 * gap for m in all_measures(log) for gap in m.gaps)
    return mean(gaps), gaps[len(gaps) * 99 // 100], gaps[-1]


gaps = {key: tail(log) for key, log in tried.items()}
first = {key: sorted(1e3 * m.ttft for m in all_measures(log)) for key, log in tried.items()}
ninth = len(full) * 9 // 10
print(f"{'policy':>8}{'budget':>9}{'mean gap':>11}{'P99':>9}{'worst':>9}{'TTFT p50':>12}{'p90':>10}")
for key in tried:
    print(f"{key[0]:>8}{key[1]:9,}" + "{:9.1f}ms{:7.0f}ms{:7.0f}ms".format(*gaps[key])
          + f"{median(first[key]):10.0f}ms{first[key][ninth]:8.0f}ms")  # fmt: skip
shorter = gaps["vllm", LONGEST][2] / gaps["chunked", 256][2]
starved = first["chunked", 64][ninth] / first["chunked", 512][ninth]
print(f"worst gap: {quote('shorter', f'{shorter:.0f}')} times shorter with a budget of 256 than prefill first; "
      f"TTFT p90 {quote('starved', f'{starved:.1f}')} times longer at 64 than at 512")  # fmt: skip
usual, _, pause = gaps["vllm", LONGEST]
print(f"prefill first: mean gap {quote('vllm_mean', f'{usual:.0f}')} ms, worst {quote('vllm_worst', f'{pause:.0f}')} ms")

# %% tags=["drawing"]
fig, (left, right) = plots.figure(2)
x = (*CUTS, LONGEST)
floors = [1e3 * step_time(shape, CARD["flops_per_s"], CARD["bytes_per_s"], chunk=n) for n in x]
left.plot(x, floors, **DASHED, label="floor: step_time of the budget alone")
prompt_ms = sorted(1e3 * prefill_time(shape, r.prompt, CARD["flops_per_s"]) for r in full)
right.axhline(prompt_ms[ninth], **DASHED, label="floor: FLOPs of such a prompt / FLOP/s")
slow = {key: ordered[ninth] for key, ordered in first.items()}
worst = {key: found[2] for key, found in gaps.items()}
for axes, values in ((left, worst), (right, slow)):
    plots.series(axes, 3, CUTS, [values["chunked", cut] for cut in CUTS], "chunked")
    plots.series(axes, 1, [LONGEST], [values["orca", LONGEST]], "Orca, whole prompts")
    plots.series(axes, 2, [LONGEST], [values["vllm", LONGEST]], "prefill first (vLLM 2023)")
    plots.log_scales(axes, x)
left.plot(x, [gaps["chunked", n][0] for n in CUTS] + [gaps["orca", LONGEST][0]], **DOTTED, label="the mean gap (chunked; Orca)")
plots.check_floor("worst gap", [worst["chunked", n] for n in CUTS], floors[:-1])
plots.check_floor("TTFT p90", list(slow.values()), [prompt_ms[ninth]] * len(slow))
plots.log_heights(left, [10, 100, 1000], 3, 20_000)
plots.log_heights(right, [200, 500, 1000, 2000, 5000])
title = f"Chunks of 256: the worst pause is {shorter:.0f} times shorter"
finish(left, title, shorter > 5, "token budget of a step", "worst gap between two tokens (ms)", "upper left")
title = f"Too small a budget starves prompts: {starved:.1f} times the wait at 64"
finish(right, title, starved > 2, "token budget of a step", "TTFT, 90th percentile (ms)", "upper right")
plots.show(fig)

# %% [markdown]
# **The gap** to the left floor is attention: the last chunk of a long prompt looks back at all of it, and the decodes read their
# caches. On the right it is the queue, and with small budgets the weights, which are read again for each chunk. Where the floor
# on the left is flat a larger chunk costs nothing, so the budget belongs where the floor bends. The dotted mean hardly moves:
# a pause of half a second vanishes among thousands of gaps.
#
# ## A full memory: preempt, or be careful?
#
# A pool that becomes too small for 64 slots. A request that needs a block preempts the one that was admitted last, which is
# recomputed later or swapped. The careful scheduler keeps a fifth of the pool free at admission (a watermark) instead. Two
# users are affected: the one who is inside and pauses, and the one who waits outside.

# %%
POOLS = (150, 250, 500, 750)
WAYS = {
    "recompute": {"preemption": "recompute"},
    "swap": {"preemption": "swap", "host_blocks": 20_000},
    "careful": {"preemption": "recompute", "watermark": 5},
}
short = [replace(r, arrival=0.0) for r in scaled(draw(profile, 128, seed=5), 16, 4)]


def in_pool(blocks, **limits):
    """Tokens per second, preemptions, and the gaps, of 64 slots with so many blocks."""
    limits |= {"watermark": blocks // limits["watermark"]} if "watermark" in limits else {}
    log = simulate(short, num_blocks=blocks, max_sequences=64, max_tokens_per_step=512, **limits)
    return sum(r.output for r in short) / duration(log), sum(e.kind == PREEMPTED for e in log.events), tail(log)


enough, _, _ = in_pool(BLOCKS)
pools = {name: [in_pool(blocks, **way) for blocks in POOLS] for name, way in WAYS.items()}
print("".join(f"{name + ': tokens/s':>22}{'preempted':>11}{'mean, P99, worst gap (ms)':>28}" for name in WAYS))
for i, blocks in enumerate(POOLS):
    print(f"{blocks:6,}", *(f"{p[i][0]:15,.0f}{p[i][1]:11}" + "{:14.1f}{:7.0f}{:7.0f}".format(*p[i][2]) for p in pools.values()))

(pace, times, (_, _, pause)), (caution, _, (_, _, calm)) = pools["recompute"][1], pools["careful"][1]
faster, longer = pace / caution - 1, pause / calm
print(f"at {POOLS[1]} blocks: {quote('preempted', times)} preemptions, {quote('preempt_gain', f'{faster:.0%}')} more tokens/s")
print(f"worst pause {quote('preempt_pause', f'{pause:.0f}')} ms, careful {quote('calm_pause', f'{calm:.0f}')} ms")

# %% tags=["drawing"]
fig, (left, right) = plots.figure(2)
plots.ceiling(left, enough, "ceiling: memory for all 64")
for i, (name, found) in enumerate(pools.items()):
    plots.series(left, i, POOLS, [pace for pace, _, _ in found], name)
    plots.series(right, i, POOLS, [gaps[2] for _, _, gaps in found], f"{name}: worst gap")
    plots.check_ceiling(name, [pace for pace, _, _ in found], [enough] * len(POOLS))
right.plot(POOLS, [gaps[0] for _, _, gaps in pools["recompute"]], **DOTTED, label="recompute: mean gap")
left.set_ylim(0, enough * 1.2)
plots.log_heights(right, [10, 100, 1000], 3, 30_000)
title, pool = f"Preempting {times} times is {faster:.0%} faster than care", "blocks of 16 tokens in the pool"
finish(left, title, faster > 0.05 and times > 20, pool, "throughput (tokens/s)", "lower right")
finish(right, f"The worst pause is {longer:.0f} times as long", longer > 5, pool, "gap between two tokens (ms)", "upper right")
plots.show(fig)

# %% [markdown]
# **The gap** on the left is the weights: fewer requests fit, so each reading serves fewer tokens. What is computed twice or
# swapped is a small part of that, and blocks that are kept free cost more. On the right, the pause of a preempted request is
# the wait until blocks come free again. Mean and P99 do not show it, since few requests pause and each does so once or twice.
#
# ## Try it
#
# When does static batching suffice? Predict, then move. (Needs `ipywidgets`.)

# %% tags=["skip-execution"]
from ipywidgets import interact


@interact(policy=list(NAMES), rate=(0.2, 4.0, 0.2), slots=(1, 64), budget=(64, 2048, 64))
def serve_on_paper(policy="chunked", rate=1.0, slots=16, budget=512):
    budget = max(budget, slots) if policy == "chunked" else WHOLE
    requests = at_times(full, arrivals(len(full), rate, seed=2))
    log = simulate(requests, policy=policy, max_sequences=slots, max_tokens_per_step=budget)
    found = all_measures(log)
    print(f"median TTFT {median(m.ttft for m in found):.2f} s, worst gap {1e3 * max(m.itl for m in found if m.itl):.0f} ms, "
          f"{sum(m.new_tokens for m in found) / duration(log):.0f} tokens/s")  # fmt: skip
