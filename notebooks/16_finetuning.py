# %% [markdown]
# # 16 · Fine-tuning: the way back
#
# The lesson ([16_finetuning.md](../lessons/16_finetuning.md)) claims: training takes three times the arithmetic of a forward pass
# and four times the memory of the weights, activations apart. Adapters remove most of that memory, but only a quarter of the
# activations. Merged, they cost nothing. We train a small model, count bytes before we measure them, and serve adapters both
# ways.

# %%
import math
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

import minillm
from minillm import LLM, SamplingParams, plots
from minillm.backends import WORTH_COMPILING, fitting_backend
from minillm.bench.machine import best_of, kept_machine
from minillm.bench.rounds import in_turn
from minillm.course.notebooks.figures import quote
from minillm.engine.engine import Engine
from minillm.metrics.events import EventLog, tpot
from minillm.metrics.summary import duration
from minillm.model.config import ModelConfig
from minillm.model.generate import generate_tokens
from minillm.model.lora import MATRICES, adapter_parameters
from minillm.model.presets import preset
from minillm.model.random_model import byte_metadata, random_tensor, tensor_shapes
from minillm.model.transformer import Segment
from minillm.model.write import write_model
from minillm.quantization.nf4 import BLOCK, nearest, nf4_levels
from minillm.scheduler.scheduler import SchedulerConfig
from minillm.training import lora, model
from minillm.training.bpe_train import train_bpe
from minillm.training.checkpoint import State
from minillm.training.config import Data, Optimizer, Run, TrainConfig
from minillm.training.data import Batches, held_out_batches, read_corpus, split
from minillm.training.loop import fit
from minillm.training.memory import measured_peak, step_memory
from minillm.training.optimizer import adamw, clip, zeros_like
from minillm.training.prepare import END_OF_TEXT, ids
from minillm.training.qlora import quantize_base

ADAMW = {"beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "weight_decay": 0.1}
DASHED = {"color": "black", "linestyle": "--", "linewidth": 1.2}
GREY = {"color": "grey", "linestyle": ":", "linewidth": 1.2}

# %% [markdown]
# ## A model learns
#
# The corpus is the one that `tiny` learned from; here a tokenizer of 512 and a model of some hundred thousand weights see
# a little of it. Two lines are known before the first step. A model that knows nothing has a loss of ln V. One that knows how
# frequent each token is, and nothing of what stands before it, has the entropy of single tokens.

# %%
CORPUS = Path(minillm.__file__).parents[1] / "data" / "corpus" / "stories.txt.xz"
VOCABULARY, LENGTH, BATCH, STEPS = 512, 128, 8, 200

learn, judge = split(read_corpus(CORPUS), END_OF_TEXT, 0.02)
learn = learn[:1500]
tokenizer = train_bpe(learn, VOCABULARY, special=(END_OF_TEXT,), add_bos=True)
seen, unseen = (np.array([token for story in ids(tokenizer, side) for token in story]) for side in (learn, judge))
counts = np.bincount(seen, minlength=VOCABULARY)
shares = counts[counts > 0] / len(seen)
entropy = float(-(shares * np.log(shares)).sum())
characters = sum(map(len, learn))
print(f"{len(learn):,} stories, {len(seen):,} tokens of {characters / len(seen):.1f} characters; {len(judge)} stories held out")
knows_nothing, by_frequency = quote("ln_v", f"{math.log(VOCABULARY):.2f}"), quote("entropy", f"{entropy:.2f}")
print(f"ln {VOCABULARY:,} = {knows_nothing} nats; entropy of single tokens {by_frequency}")
print(f"a story begins: {learn[0][:100]}…")

# %% tags=["timing"]
small = ModelConfig(n_layers=2, d_model=96, n_heads=3, n_kv_heads=1, d_head=32, d_ff=256, vocab_size=VOCABULARY,
                    context_length=256, tied=True, name="learner")  # fmt: skip
optimizer = Optimizer(learning_rate=6e-3, floor=6e-4, warmup=20, **ADAMW)
config = TrainConfig(Run("", STEPS, BATCH, LENGTH, evaluate_every=15), Data(str(CORPUS)), small, optimizer)
weights = model.parameters(small, seed=0)
held_out = held_out_batches(unseen, BATCH, LENGTH, 4)
state = State(0, weights, zeros_like(weights), zeros_like(weights), {"epoch": 0, "next": 0})
steps = []


def evaluate(weights):
    """Mean loss over the held-out windows."""
    return float(np.average([model.loss(small, weights, *pair) for pair in held_out], weights=[p[1].size for p in held_out]))


fit(config, state, Batches(seen, BATCH, LENGTH, seed=0), partial(model.loss_and_gradients, small), evaluate, watch=steps.append)
tokens, seconds = sum(s.tokens for s in steps), sum(s.seconds for s in steps)
judged = [s for s in steps if s.held_out_loss is not None]
below = next((s.step for s in judged if s.held_out_loss < entropy), None)
last_loss = judged[-1].held_out_loss
print(f"{small.parameters():,} weights, {tokens:,} tokens in {seconds:.1f} s; "
      f"held-out loss {quote('held_out', f'{last_loss:.2f}')}, "
      f"perplexity {math.exp(judged[-1].held_out_loss):.0f} of {VOCABULARY:,}")  # fmt: skip

with tempfile.TemporaryDirectory() as folder:
    write_model(Path(folder) / "learner.gguf", small, state.parameters, tokenizer)
    llm = LLM(str(Path(folder) / "learner.gguf"), "numpy")
    print("it writes:", llm.generate("One day", SamplingParams(max_tokens=40, temperature=0.5, seed=1, ignore_eos=True)).text)

# %% tags=["timing", "drawing"]
fig, (axes,) = plots.figure(width=8)
axes.axhline(math.log(VOCABULARY), **DASHED, label=f"knows nothing: ln {VOCABULARY:,} = {math.log(VOCABULARY):.2f}")
axes.axhline(entropy, **GREY, label=f"knows frequencies: entropy of single tokens = {entropy:.2f}")
plots.series(axes, 0, [s.step for s in steps[::5]], [s.loss for s in steps[::5]], "training")
plots.series(axes, 1, [s.step for s in judged], [s.held_out_loss for s in judged], "held out")
falls = below is not None and judged[-1].held_out_loss < judged[0].held_out_loss
when = plots.finding(f"After {below} steps the model knows more than frequencies", falls)
plots.label(axes, when, "step", "loss (nats a token)")
axes.set_ylim(0, 1.1 * max(math.log(VOCABULARY), max(s.loss for s in steps)))
axes.legend(frameon=False, loc="lower left")
plots.show(fig)

# %% [markdown]
# **The gap** between the lower line and the curve is what was learnt of context. What lies between the curve and zero is in
# part the freedom of the storyteller: no model can remove it.
#
# ## Memory: counted, then measured
#
# `step_memory` is a formula over shapes; `measured_peak` watches what a step allocates. Ten million weights, one sequence of
# 128 tokens, adapters of rank 8 on queries and values. First the formula alone, for a model that we could not train here.

# %%
llama = preset("llama-2-7b")
WAYS = {"full": ("full", False), "LoRA": ("lora", False), "QLoRA": ("qlora", False), "QLoRA,\nrecomputed": ("qlora", True)}
PARTS = ("weights", "moments", "gradients", "activations", "working")
print("Llama-2-7B, one sequence of 512 tokens, in float32 (GB):")
for name, (method, recompute) in WAYS.items():
    counted = step_memory(llama, 1, 512, method, recompute=recompute)
    quote(f"llama_{method}{'_recomputed' if recompute else ''}", f"{counted.total / 1e9:.1f}")
    parts = ", ".join(f"{part} {getattr(counted, part) / 1e9:.1f}" for part in PARTS)
    print(f"  {name.replace(chr(10), ' '):18}{counted.total / 1e9:6.1f}   at the {counted.when}: {parts}")

# %% tags=["timing"]
shape = ModelConfig(n_layers=6, d_model=384, n_heads=6, n_kv_heads=3, d_head=64, d_ff=1024, vocab_size=1024,
                    context_length=1024, tied=True, name="ten million")  # fmt: skip


def trained(method, recompute=False):
    """The state of a run, and the function of its gradients: all that there is before a step."""
    weights = model.parameters(shape)
    gradients = partial(model.loss_and_gradients, shape, recompute=recompute)
    if method != "full":
        base = quantize_base(weights) if method == "qlora" else weights
        gradients = partial(lora.loss_and_gradients, shape, base, 16.0, recompute=recompute)
        weights = lora.fresh_adapter(shape, 8, 16.0).weights
    return weights, zeros_like(weights), zeros_like(weights), gradients


def one_step(made, batch=1, length=128):
    weights, first, second, gradients_of = made
    tokens, targets = np.random.default_rng(0).integers(0, shape.vocab_size, (2, batch, length))
    _, gradients = gradients_of(weights, tokens, targets)
    clip(gradients, 1.0)
    adamw(weights, gradients, first, second, 1, 1e-3, **ADAMW)


one_step(trained("lora"), length=8)  # what Python keeps from a first call is not of the step
counted = {name: step_memory(shape, 1, 128, method, recompute=again) for name, (method, again) in WAYS.items()}
measured = {name: measured_peak(partial(trained, *way), one_step) for name, way in WAYS.items()}
for name, found in measured.items():
    print(f"{name.replace(chr(10), ' '):18} counted {counted[name].total / 1e6:6.1f} MB, measured {found / 1e6:6.1f} MB")

# %% tags=["timing", "drawing"]
fig, (axes, right) = plots.figure(2)
bottom = np.zeros(len(WAYS))
for i, part in enumerate(PARTS):
    sizes = np.array([getattr(counted[name], part) / 1e6 for name in WAYS])
    axes.bar(list(WAYS), sizes, bottom=bottom, color=plots.COLOURS[i], hatch=plots.HATCHES[i], edgecolor="white", width=0.6,
             label=part)  # fmt: skip
    bottom += sizes
places = np.arange(len(WAYS))
peaks = [found / 1e6 for found in measured.values()]
axes.hlines(peaks, places - 0.38, places + 0.38, color="black", linewidth=2, label="measured")
axes.axhline(16 * shape.parameters() / 1e6, **DASHED, label="floor of full: 16 bytes · P")
plots.check_floor("full", [measured["full"]], [16 * shape.parameters()])
shares = {name: found / measured["full"] for name, found in measured.items()}
agree = all(abs(measured[name] / counted[name].total - 1) < 0.03 for name in WAYS)
title = f"LoRA takes {shares['LoRA']:.0%} of full fine-tuning, QLoRA {shares['QLoRA']:.0%}"
holds = agree and shares["QLoRA"] < shares["LoRA"] < 0.5
plots.label(axes, plots.finding(title, holds, counted=True), "", "memory at the worst moment (MB)")
axes.set_ylim(0, 1.5 * max(bottom))
axes.legend(frameon=False, loc="upper right", ncols=2, fontsize=9)
TEXTS = (256, 512, 1024, 2048, 4096)
for i, (name, (method, recompute)) in enumerate(WAYS.items()):
    needed = [step_memory(llama, 1, n, method, recompute=recompute).total / 1e9 for n in TEXTS]
    plots.series(right, i, TEXTS, needed, name.replace("\n", " "))
long = step_memory(llama, 1, TEXTS[-1], "qlora")
mostly = long.activations / long.total
quote("long_lora", f"{step_memory(llama, 1, TEXTS[-1], 'lora').total / 1e9:.0f}")
print(f"QLoRA at {TEXTS[-1]:,} tokens: {quote('long_qlora', f'{long.total / 1e9:.0f}')} GB, "
      f"of which activations {quote('long_share', f'{mostly:.0%}')}")  # fmt: skip
title = plots.finding(f"At {TEXTS[-1]:,} tokens {mostly:.0%} of QLoRA is activations", mostly > 0.7, counted=True)
plots.label(right, title, "tokens of one text", "memory, Llama-2-7B (GB)")
right.set_xscale("log")
right.set_xticks(TEXTS, [f"{n:,}" for n in TEXTS])
plots.log_heights(right, [4, 8, 16, 32, 64, 128], 3, 700)
right.legend(frameon=False, loc="upper left", ncols=2, fontsize=9)
plots.show(fig)

# %% [markdown]
# **The gap** of the full bar to its floor is small, because activations are given back while gradients grow. What is left of
# QLoRA is activations and one matrix unpacked. On the right, for a large model: adapters and four bits remove what does not
# depend on the text. Only recomputation bends the part that does.
#
# ## Sixteen levels
#
# NF4's levels are quantiles of the normal distribution. Each would be used equally often if weights were compared with them as
# they are. But a block of 64 is divided by its largest magnitude first.

# %%
normal = np.random.default_rng(0).standard_normal((1 << 14, BLOCK)).astype(np.float32)
scale = np.abs(normal).max(axis=1, keepdims=True)
codes, levels = nearest(normal / scale), nf4_levels()
used = np.bincount(codes.reshape(-1), minlength=16) / codes.size
low, span = normal.min(axis=1, keepdims=True), np.ptp(normal, axis=1, keepdims=True) / 15
grids = {
    "NF4": levels[codes] * scale,
    "symmetric int4": np.clip(np.rint(normal / scale * 7), -8, 7) / 7 * scale,
    "asymmetric int4": np.rint((normal - low) / span) * span + low,
}
errors = {name: float(np.square(grid - normal).mean() / np.square(normal).mean()) for name, grid in grids.items()}
print("relative squared error:", ", ".join(f"{name} {error:.2e}" for name, error in errors.items()))
rarest, commonest = quote("rarest", f"{used.min():.1%}"), quote("commonest", f"{used.max():.1%}")
print(f"a level is used by {rarest} to {commonest} of the weights")
for name, error in errors.items():
    quote(f"error {name}", f"{1e3 * error:.1f}")

# %% tags=["drawing"]
fig, (axes,) = plots.figure(width=8, height=3.4)
axes.bar(range(16), 100 * used, color=plots.COLOURS[0], edgecolor="black", width=0.8)
axes.axhline(100 / 16, **DASHED, label="if all were used alike: 1/16")
uneven = used.max() > 4 * used.min() and errors["asymmetric int4"] < errors["NF4"] < errors["symmetric int4"]
title = plots.finding(f"NF4's levels are not used equally: {used.min():.1%} to {used.max():.1%}", uneven, counted=True)
plots.label(axes, title, "level, over the block's largest weight", "share of weights (%)")
axes.set_xticks(range(16), [f"{level:.2f}" for level in levels], fontsize=8)
axes.set_ylim(0, 130 * used.max())  # room for the legend
axes.legend(frameon=False, loc="upper left")
plots.show(fig)

# %% [markdown]
# **The gap** to the dashed line comes from the scale: a block's largest weight lies about 2.4 deviations out, the outermost level
# of the table at 1.8, so all weights move towards the middle. NF4 beats symmetric steps, not every table of sixteen numbers.
#
# ## Training, prefill, decode: three speeds of one model
#
# The same ten million weights on the same library (NumPy and its BLAS, float32). The first three are bound by arithmetic: 6, 4
# and 2 FLOPs a weight, so 3 : 2 : 1 in time. Decode does as little arithmetic as prefill and reads all weights for it.

# %% tags=["timing"]
machine = kept_machine()
N, PROMPT, NEW = 256, 256, 24
drawn = {name: random_tensor(name, size, seed=0) for name, size in tensor_shapes(shape).items()}
home = tempfile.TemporaryDirectory()


def served(name, weights, dtype, backend, adapters=None):
    """An LLM of these weights, through a file."""
    path = Path(home.name) / f"{name}.gguf"
    write_model(path, shape, weights, byte_metadata(shape.vocab_size), dtype=dtype)
    return LLM(str(path), backend, adapters=adapters)


def thrice(work):
    """Three measurements of seconds, in order; the middle one is reported, and the other two are its spread."""
    return sorted(work() for _ in range(3))


def training_s(method):
    made = trained(method)
    return thrice(lambda: best_of(lambda: one_step(made, batch=4, length=N), runs=1))


def prompt_of(n):
    return np.random.default_rng(n).integers(0, 256, n).tolist()


def ttft_s(llm, n, adapter=None):
    transformer, loaded = llm.transformer, llm.adapter(adapter)
    segment = partial(Segment, prompt_of(n), 0)
    return thrice(lambda: best_of(lambda: transformer.forward([segment(transformer.new_cache(), "last", loaded)]), runs=2))


def tpot_s(llm, adapter=None):
    """Seconds a token of one sequence, three times."""

    def pace():
        log = EventLog()
        params = SamplingParams(max_tokens=NEW, ignore_eos=True)
        for _ in generate_tokens(llm.transformer, (), [llm.sequence(0, prompt_of(32), params, adapter=adapter)], log):
            pass
        return tpot(log, 0)

    return thrice(pace)


base = served("base_32", drawn, "F32", "numpy")
full_flops, read = shape.training_flops(N, N) / N, shape.decode_bytes(32 + NEW // 2, 1, 32, 4)
frozen = full_flops - 2 * shape.matrix_parameters()
found = {
    "training,\nfull": ([4 * N / t for t in training_s("full")], machine.flops_per_s / full_flops),
    "training,\nLoRA": ([4 * N / t for t in training_s("lora")], machine.flops_per_s / frozen),
    "prefill": ([PROMPT / t for t in ttft_s(base, PROMPT)], machine.flops_per_s / (shape.prefill_flops(PROMPT) / PROMPT)),
    "decode": ([1 / t for t in tpot_s(base)], machine.read_bytes_per_s / read),
}
print(f"float32 products {machine.flops_per_s / 1e9:.0f} GFLOP/s, memory {machine.read_bytes_per_s / 1e9:.1f} GB/s")
for name, (runs, most) in found.items():
    pace, between = median(runs), f"{min(runs):,.0f} to {max(runs):,.0f}"
    print(f"{name.replace(chr(10), ' '):16}{pace:8,.0f} tokens/s ({between}), {pace / most:4.0%} of {most:8,.0f}")
    plots.check_ceiling(name, runs, [most] * 3)

# %% tags=["timing", "drawing"]
fig, (axes,) = plots.figure(width=8, height=5)
formulas = ("FLOP/s / (6 P + attention)", "the same without dW", "FLOP/s / (2 P + attention)", "bandwidth / bytes")
plots.bars(axes, list(found), [median(runs) for runs, _ in found.values()], "")
plots.spread_bars(axes, [runs for runs, _ in found.values()])
for i, (formula, (_, most)) in enumerate(zip(formulas, found.values(), strict=True)):
    axes.plot([i - 0.42, i + 0.42], [most, most], **DASHED)
    axes.annotate(f"ceiling: {formula}", (i, most), ha="center", fontsize=8, xytext=(0, 4), textcoords="offset points")
axes.set_ylim(0, 1.15 * max(max(*runs, most) for runs, most in found.values()))
ratio = median(found["prefill"][0]) / median(found["training,\nfull"][0])
title = plots.finding(f"Prefill takes a token {ratio:.1f} times as fast as training", ratio > 2)
quote("train_ratio", f"{ratio:.1f}")
plots.label(axes, title, "", "throughput (tokens/s), NumPy and BLAS")
plots.show(fig)

# %% [markdown]
# **The gap** in training is everything that is not a product: norms, SwiGLU and softmax pass over memory, forward and back, and
# AdamW touches four arrays of ten million numbers for each step of a thousand tokens. LoRA has no such step. In decode it is
# Python between the layers.
#
# ## Adapters: apart or merged
#
# Rank 8 on all seven matrices; weights in 16 bits, on compiled kernels if they are here. Merged is a file like the base. Apart,
# the base's product is done once for all rows, and each adapter adds to the rows of its own requests; so eight requests may
# use four adapters in one batch.

# %% tags=["timing"]
SEVEN = MATRICES


def adapter_of(seed):
    """An adapter as if it had been trained: B is not zero."""
    fresh = lora.fresh_adapter(shape, 8, 16.0, SEVEN, seed)
    rng = np.random.default_rng(seed)
    noise = {n: (rng.standard_normal(b.shape) / 50).astype(np.float32) for n, b in fresh.weights.items() if n.endswith(lora.B)}
    return replace(fresh, weights=fresh.weights | noise)


adapters = {f"adapter {i}": adapter_of(i) for i in range(4)}
backend = fitting_backend(WORTH_COMPILING)
apart = served("base", drawn, "F16", backend, adapters)
merged = served("merged", lora.merge(drawn, adapters["adapter 0"]), "F16", backend)
last = {}
for name, llm, adapter in (("apart", apart, "adapter 0"), ("merged", merged, None), ("base", apart, None)):
    segment = Segment(prompt_of(64), 0, llm.transformer.new_cache(), "last", llm.adapter(adapter))
    last[name] = llm.transformer.forward([segment])[0]
differ = {name: np.abs(last[name] - last["merged"]).max() for name in ("apart", "base")}
print(f"logits apart and merged differ by {differ['apart'] / differ['base']:.2%} of what the adapter changes (16 bits round)")
print(f"an adapter: {adapter_parameters(shape, 8, SEVEN):,} numbers, "
      f"{adapter_parameters(shape, 8, SEVEN) / shape.parameters():.1%} of the model's")  # fmt: skip


def batch_tokens_per_s(llm, names):
    """Eight requests in one batch: new tokens a second, their prompts included."""
    engine = Engine(llm, SchedulerConfig(64, max_sequences=8))
    for i, name in enumerate(names):
        engine.add(prompt_of(16 + i), SamplingParams(max_tokens=NEW, ignore_eos=True), adapter=name)
    while engine.has_work:
        engine.step()
    return len(names) * NEW / duration(engine.log)


LENGTHS = (16, 64, 256)
cases = {"base": (apart, None), "merged": (merged, None), "apart": (apart, "adapter 0")}
waits = {name: (LENGTHS, [ttft_s(llm, n, adapter)[1] for n in LENGTHS]) for name, (llm, adapter) in cases.items()}
batches = {name: (llm, [adapter] * 8) for name, (llm, adapter) in cases.items()}
batches["apart, four\nadapters"] = apart, [f"adapter {i % 4}" for i in range(8)]
for batch in batches.values():
    batch_tokens_per_s(*batch)  # warms up
runs = in_turn(batches, 3, lambda name: batch_tokens_per_s(*batches[name]))  # noise hits all
paces = {name: median(run) for name, run in runs.items()}
readable = served("readable", drawn, "F16", "numpy", adapters)
slow = [max(batch_tokens_per_s(readable, [adapter] * 8) for _ in range(2)) for adapter in (None, "adapter 0")]
for name, (_, times) in waits.items():
    print(f"{name:8} TTFT " + ", ".join(f"{1e3 * t:.1f} ms at {n}" for n, t in zip(LENGTHS, times, strict=True)))
print("tokens/s:", ", ".join(f"{name.replace(chr(10), ' ')} {pace:,.0f}" for name, pace in paces.items()))
print(f"on NumPy, the readable backend: base {slow[0]:,.0f}, apart {slow[1]:,.0f}: it keeps {slow[1] / slow[0]:.0%}")

# %% tags=["timing", "drawing"]
fig, (left, right) = plots.figure(2)
peak = machine.peak(kernels=backend != "numpy")
bound = (LENGTHS, [shape.prefill_flops(n) / peak for n in LENGTHS], "floor: FLOPs / FLOP/s of the kernels")
slower = waits["apart"][1][-1] / waits["merged"][1][-1]
quote("apart_ttft", f"{slower:.2f}")
title = plots.finding(f"Apart, TTFT at {LENGTHS[-1]} tokens is {slower:.2f} times that of merged", slower > 1)
plots.ttft_plot(left, waits, title, bound=bound)
context = 20 + NEW // 2
reading, computing = shape.decode_bytes(context, 8, 16, 4) / machine.read_bytes_per_s, 8 * shape.decode_flops(context)
prompts_s = sum(shape.prefill_flops(16 + i) for i in range(8)) / peak
least = prompts_s + (NEW - 1) * max(reading, computing / peak)
kept = paces["apart, four\nadapters"] / paces["merged"]
title = plots.finding(f"Four adapters in one batch keep {quote('four_keep', f'{kept:.0%}')} of merged's pace", kept < 1)
plots.throughput_plot(right, paces, title, (8 * NEW / least, "ceiling: prompts' FLOPs, then steps of max(bytes, FLOPs)"))
plots.spread_bars(right, list(runs.values()))
plots.show(fig)
home.cleanup()

# %% [markdown]
# **The gap** between apart and merged is more than the adapter's arithmetic, a few percent: fourteen more products a layer for
# each adapter, each over too few numbers to be worth starting. Compiled kernels make them within the wide ones and lose little;
# on NumPy alone, the readable backend, each is a call. The gap of all to the ceiling is the rest of a layer, and Python. The
# floor on the left uses the peak of the compiled kernels, so no kernel can lie below it. (Black strokes: three runs.)
#
# What an adapter is for: `tiny` tells stories, and a short run of LoRA taught it to end with a moral. The same seed,
# before and after.

# %% tags=["timing"]
MORAL = CORPUS.parents[1] / "models" / "moral.gguf"
if MORAL.is_file():
    teller = LLM("tiny", adapters={"moral": MORAL})
    for name in (None, "moral"):
        story = teller.generate("Once upon a time", SamplingParams(max_tokens=250, temperature=0.7, seed=3), adapter=name)
        print(f"{name or 'tiny'}: …{story.text.strip()[-300:]}")

# %% [markdown]
# ## Try it
#
# What fits your card? Predict, then move. (Needs `ipywidgets`.)

# %% tags=["skip-execution"]
from ipywidgets import interact

from minillm.model.presets import PRESETS


@interact(name=list(PRESETS), method=["full", "lora", "qlora"], batch=(1, 32), length=(128, 4096, 128), rank=(1, 64))
def fits(name="llama-2-7b", method="qlora", batch=1, length=512, rank=8, recompute=False):
    found = step_memory(preset(name), batch, length, method, rank=rank, recompute=recompute)
    print(f"{found.total / 1e9:.1f} GB, at the {found.when}:", *(f"{part} {getattr(found, part) / 1e9:.1f}" for part in PARTS))
