# %% [markdown]
# # 08 · Activation quantization: whole numbers from end to end
#
# The lesson ([08_activation_quantization.md](../lessons/08_activation_quantization.md)) claims: one outlier takes the steps of
# all others; LLM.int8(), SmoothQuant and FP8 are three ways out; a cache of keys and values in few bits holds more requests;
# keys want a scale for each channel; and 8-bit products make prefill and large batches faster, not a single user. We round one
# product by hand, then the activations of whole models, then their caches.

# %%
import json
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

import minillm
from minillm import LLM, SamplingParams, plots
from minillm.backends import WORTH_COMPILING, fitting_backend
from minillm.bench import activations
from minillm.bench.block_types import SHAPE, TypeSpeeds, ttft_panel, write_repeated
from minillm.bench.machine import kept_machine
from minillm.bench.quality import score, text_ids
from minillm.bench.rounds import curves, medians
from minillm.bench.steps import decode_seconds, fill, prefill_seconds
from minillm.calibration.activations import METHODS
from minillm.calibration.collect import collect
from minillm.calibration.statistics import ActivationStatistics, Channels
from minillm.calibration.texts import story_texts
from minillm.costs.memory import kv_bits, kv_token_bytes, kv_tokens
from minillm.costs.time import prefill_time, step_time
from minillm.course.notebooks.figures import quote
from minillm.engine.engine import Engine
from minillm.metrics.events import PREEMPTED
from minillm.metrics.perplexity import mean
from minillm.model.presets import preset
from minillm.model.transformer import Segment, Transformer
from minillm.quantization.fp8 import round_e4m3, scale_of
from minillm.quantization.int8 import int8_linear, quantize_int8, static_errors, static_scales
from minillm.quantization.kivi import GROUP, per_channel, per_token
from minillm.quantization.llm_int8 import llm_int8
from minillm.quantization.rotations import hadamard
from minillm.quantization.smoothquant import smooth, smoothing_scales
from minillm.scheduler.scheduler import SchedulerConfig
from minillm.training.prepare import END_OF_TEXT

DASHED = {"color": "black", "linestyle": "--", "linewidth": 1.2}
home = tempfile.TemporaryDirectory()
FOLDER = Path(home.name)
texts = story_texts()
tiny = LLM("tiny", "numpy")

# %% [markdown]
# ## One product by hand
#
# Four activations of which one is an outlier, four weights, and the five ways of the lesson. What each loses is its distance to
# the exact product.

# %%
X, W = np.float32([[0.43, -0.27, 0.13, 12.7]]), np.float32([[0.50, -0.80, 1.27, 0.05]])
exact = float((X.astype(float) @ W.T.astype(float))[0, 0])


def int8(x, w):
    """One scale for x, one for w, whole numbers, one multiplication at the end."""
    return int8_linear(quantize_int8(x), quantize_int8(w))


def e4m3(x):
    return round_e4m3(x / scale_of(x)) * scale_of(x)


halves = smoothing_scales(np.abs(X[0]), W)
R = hadamard(4).astype(np.float32)
ways = {
    "one scale": int8(X, W), "LLM.int8()": llm_int8(X, W), "SmoothQuant": int8(*smooth(X, W, halves)),
    "rotated": int8(X @ R, W @ R), "FP8, e4m3": e4m3(X) @ e4m3(W).T, "FP8, x alone": e4m3(X) @ W.T,
}  # fmt: skip
print("codes:", quantize_int8(X).codes[0], "and", quantize_int8(W).codes[0], "| SmoothQuant's s:", halves.round(2))
for name, result in ways.items():
    print(f"{name:14}{result[0, 0]:8.4f}   off by {abs(result[0, 0] - exact):.4f}")
clipped = int8_linear(quantize_int8(X * np.float32([1, 1, 1, 1.5]), scales=static_scales([X])), quantize_int8(W))
print(f"static scale, outlier × 1.5: {clipped[0, 0]:.4f}, exact {exact + 6.35 * 0.05:.4f}")

# %% [markdown]
# ## Error against the size of outliers
#
# First without a model: 128 tokens of 1,024 normal numbers, of which 2% of the channels are so many times as large, times a
# matrix of normal weights. An error is the root mean square of what is wrong, over that of the product. SmoothQuant's
# statistics are from other tokens. Then `tiny`, with outliers injected behind each norm; in float it computes what it did. Those
# figures come from `minillm bench activations` and were [kept](../data/results/activations.json).

# %%
rng = np.random.default_rng(0)
TOKENS, WIDTH, SIZES = 128, 1024, (1, 2, 5, 10, 20, 50, 100)
plain, other = (rng.standard_normal((TOKENS, WIDTH)).astype(np.float32) for _ in range(2))
weights = (rng.standard_normal((256, WIDTH)) / np.sqrt(WIDTH)).astype(np.float32)
large = rng.choice(WIDTH, WIDTH // 50, replace=False)
SHOWN = {  # of the table of methods: how it is called here
    "dynamic": "int8, one scale", "token": "int8, a scale a token", "rotated": "rotated, one scale", "e5m2": "FP8, e5m2",
    "e4m3": "FP8, e4m3", "smooth_token": "SmoothQuant", "llm_int8": "LLM.int8()",
}  # fmt: skip


def product_error(name, times):
    """Relative error of the product by one method, where outlier channels are so many times as large."""
    size = np.ones(WIDTH, np.float32)
    size[large] = times
    x, w = plain * size, weights / size  # as in a model: the product stays what it was
    truth, seen = x.astype(float) @ w.T.astype(float), Channels(WIDTH)
    seen.add(other * size)
    if METHODS[name].before == "smooth":
        x, w = smooth(x, w, smoothing_scales(seen.max_abs, w))
    return float(np.sqrt(np.square(METHODS[name].product(w, seen)(x) - truth).mean() / np.square(truth).mean()))


errors = {name: [product_error(name, times) for times in SIZES] for name in SHOWN}
for name, found in errors.items():
    print(f"{SHOWN[name]:24}", *(f"{error:8.4f}" for error in found))
ratio = errors["token"][0] / errors["e4m3"][0]
print(f"without outliers int8, a scale a token, has {quote('int8_fp8', f'{ratio:.0%}')} of e4m3's error")
flat = [name for name, found in errors.items() if max(found) < 1.5 * found[0]]
print("flat, whatever the outliers:", ", ".join(SHOWN[name] for name in flat))

# %%
OUTLIER, NAMES = 20, ("dynamic", "token", "e4m3", "smooth_token", "llm_int8")
result = json.loads((Path(minillm.__file__).parents[1] / "data" / "results" / "activations.json").read_text())["tiny"]
print(activations.table(result))
kl = {(row["method"], row["times"]): row for row in result["rows"]}
quote("outlier", OUTLIER)
for name, key in (("tensor", "dynamic"), ("token", "token"), ("smoothquant", "smooth_token"), ("llm_int8", "llm_int8")):
    quote(f"kl {name}", f"{kl[key, OUTLIER]['kl']:.4f}")
quote("plain tensor", f"{kl['dynamic', 1]['kl']:.4f}")
quote("float columns", f"{result['outliers'][0]['float_columns_elsewhere']:.0%}")
quote("scored", f"{result['scored_tokens']:,}")

# %% tags=["drawing"]
fig, (left, right) = plots.figure(2, height=4.4)
for i, (name, said) in enumerate(SHOWN.items()):
    plots.series(left, i, SIZES, errors[name], said)
rise = {name: found[-1] / found[0] for name, found in errors.items()}
holds = rise["token"] > 5 and max(rise[name] for name in ("e4m3", "smooth_token", "llm_int8")) < 1.5
title = plots.finding("int8 alone loses by outliers; three ways out do not", holds, counted=True)
plots.label(left, title, "outlier channels, times as large", "relative error of the product")
plots.log_scales(left, SIZES)
left.set_yscale("log")
left.set_ylim(top=max(map(max, errors.values())) * 8)
left.legend(frameon=False, fontsize=8, ncols=2, loc="upper left")
at = np.arange(len(NAMES))
for i, times in enumerate((1, OUTLIER)):
    rows = [kl[name, times] for name in NAMES]
    right.bar(at + 0.4 * i - 0.2, [row["kl"] for row in rows], 0.38, color=plots.COLOURS[i], hatch=plots.HATCHES[i],
              edgecolor="white", label=f"outliers × {times}" if times > 1 else "as it is")  # fmt: skip
    right.errorbar(at + 0.4 * i - 0.2, [row["kl"] for row in rows], [row["kl_error"] for row in rows], fmt="none", ecolor="black")
right.set_xticks(at, [SHOWN[name].replace(", ", ",\n").replace("a scale", "a scale\n") for name in NAMES], fontsize=8)
right.set_yscale("log")
right.legend(frameon=False)
worse = kl["dynamic", OUTLIER]["kl"] / kl["smooth_token", OUTLIER]["kl"]
title = plots.finding(f"SmoothQuant takes the KL of one scale down {worse:.0f} times", worse > 10, counted=True)
plots.label(right, title, "", "KL divergence of tiny (nats a token), ± error")
plots.show(fig)

# %% [markdown]
# **The gap** between the curves is who pays for an outlier. With one scale all others do: steps grow with the largest.
# SmoothQuant lets the weights pay a part, LLM.int8() a product in float, and FP8 nobody: its steps are relative, but coarse. In
# `tiny` LLM.int8() takes apart more than outliers: behind SwiGLU many numbers are above 6.
#
# ## Static scales, on another text
#
# One scale for each input of a layer's matrices, from a single story. Then 24 others: how many numbers are beyond it, and what
# share of the squared error that makes.

# %%
INPUTS = ("attn_q", "attn_output", "ffn_gate", "ffn_down")  # of these; k and v, and up, share them
chunks = [np.array(tiny.tokenizer.encode(story)[:256]) for story in texts.held_out_documents[:25]]
collect(tiny.transformer, chunks[:1], seen := ActivationStatistics())
scales = {name: static_scales([seen[name].max_abs[None]]) for name in seen if name.split(".")[2] in INPUTS}
found = {"beyond": 0, "numbers": 0, "lost": np.zeros(2)}


def visit(name, x):
    """Sum up numbers beyond the scale; and squared errors, by clipping and by rounding."""
    if name in scales:
        found["numbers"] += x.size
        found["beyond"] += int((np.abs(x) > 127 * scales[name]).sum())
        found["lost"] += np.array(static_errors(x, scales[name])) * float(np.square(x, dtype=np.float64).sum())


collect(tiny.transformer, chunks[1:], visit)
beyond, numbers, lost = found.values()
print(f"clipped: {quote('clipped', f'{1e6 * beyond / numbers:.0f} in a million')} of {numbers:,} numbers")
print(f"they make {quote('clip_share', f'{lost[0] / lost.sum():.0%}')} of the squared error")
print(plots.finding("what is clipped is rare, and counts", beyond / numbers < 1e-3 and lost[0] / lost.sum() > 0.05, counted=True))

# %% [markdown]
# ## Keys and values in few bits
#
# `tiny` reads held-out stories, 512 tokens at a time, and each format is compared with the same model whose cache is float32:
# KL divergence by the number of tokens before. Its keys have no outlier channels, so we inject some: a pair of channels of each
# head of keys becomes 20 times as large, and the same pair of queries as many times smaller. No score changes in float. Last
# the keys of the first layer by themselves, with one channel moved away from zero: what does that cost the other channels?

# %%
FORMATS, CONTEXT = ("int8", "fp8", "int4", "rot4", "kivi4", "kivi2"), 512
EDGES = (0, 32, 64, 128, 256, 512)
ids = text_ids(tiny.tokenizer, END_OF_TEXT.join(texts.held_out_documents[:20]))[: 4 * CONTEXT]


def with_key_outliers(model, times):
    """The same scores in float: RoPE turns a pair of components, here 0 and 1 of each head, and turns it alike at any size."""
    c, made = model.config, []
    size = np.ones(c.d_head, np.float32)
    size[:2] = times
    for layer in model.weights.layers:
        k, q = layer.k * np.tile(size, c.n_kv_heads)[:, None], layer.q / np.tile(size, c.n_heads)[:, None]
        made.append(replace(layer, q=q, k=k))
    return Transformer(c, replace(model.weights, layers=made), model.ops, model.kv)


def judged(model, formats):
    """The scores of a model with its cache in each format, beside itself with float32."""
    made = [LLM((model.with_kv(kv), tiny.tokenizer)) for kv in formats]
    return dict(zip(formats, score(made, ids, CONTEXT, CONTEXT, LLM((model, tiny.tokenizer))), strict=True))


scores = judged(tiny.transformer, FORMATS)
stressed = judged(with_key_outliers(tiny.transformer, OUTLIER), ("int8", "int4", "rot4", "kivi4"))
before = np.concatenate([np.arange(1, CONTEXT)] * (len(ids) // CONTEXT))  # tokens that a prediction has seen
spans = [(before > low) & (before <= high) for low, high in zip(EDGES, EDGES[1:], strict=False)]
by_context = {kv: [mean(scores[kv].kl[span]) for span in spans] for kv in FORMATS}
print(f"{len(before):,} predictions; KL where up to", EDGES[1:], "tokens come before")
for kv, found in by_context.items():
    print(f"{kv:7}{kv_bits(kv, tiny.config.d_head):7.3g} bits", *(f"{value:9.5f} ± {error:.5f}" for value, error in found),
          f"  other first choice {1 - scores[kv].quality.agreement:.1%}")  # fmt: skip
for kv in FORMATS:
    quote(f"kv {kv}", f"{by_context[kv][-1].value:.4f}" if kv not in ("int8", "fp8") else f"{by_context[kv][-1].value:.5f}")
    quote(f"changed {kv}", f"{1 - scores[kv].quality.agreement:.1%}")
quote("kv_context", CONTEXT)
for where, found in (("tiny's own keys", scores), (f"outliers × {OUTLIER}", stressed)):
    paired = mean(found["rot4"].kl - found["int4"].kl)
    print(f"{where}:", *(f"{kv} {found[kv].quality.kl:.4f}," for kv in ("int8", "int4", "rot4", "kivi4")),
          f"rot4 less int4 {paired.value:+.4f} ± {paired.error:.4f}")  # fmt: skip
holds = paired.value + 3 * paired.error < 0
print(plots.finding("where keys have outlier channels a rotation helps, by more than 3 standard errors", holds, counted=True))
for kv, found in stressed.items():
    quote(f"stressed {kv}", f"{found.quality.kl:.3f}")

# %%
cache = tiny.transformer.new_cache()
tiny.transformer.forward([Segment(ids[:CONTEXT], 0, cache, "none")])
keys = cache.read(0)[0]
H = hadamard(keys.shape[2]).astype(np.float32)
KEY_SIZES = (1, 2, 5, 10, 20, 50)  # over the mean magnitude of all


def token_way(k, bits):
    codes, steps, minima = per_token(k, bits)
    return codes * steps + minima


def channel_way(k, bits):
    groups = (per_channel(k[i : i + GROUP], bits) for i in range(0, len(k), GROUP))
    return np.concatenate([codes * steps + minima for codes, steps, minima in groups])


def turned_way(k, bits):
    return token_way(k @ H, bits) @ H


KEY_WAYS = {"per token": token_way, "per token, rotated": turned_way, "per channel": channel_way}


def key_error(way, bits, times):
    """Relative error of all channels but the large one: what the outlier costs the others."""
    k, rest = keys.copy(), np.arange(keys.shape[2]) != 3
    k[:, :, 3] += times * np.abs(keys).mean()  # large in all tokens, as those of real models are
    wrong = KEY_WAYS[way](k, bits) - k
    return float(np.sqrt(np.square(wrong[..., rest]).mean() / np.square(k[..., rest]).mean()))


key_errors = {(way, bits): [key_error(way, bits, times) for times in KEY_SIZES] for way in KEY_WAYS for bits in (4, 2)}
for (way, bits), found in key_errors.items():
    print(f"{way:20}{bits} bits", *(f"{error:7.3f}" for error in found))

# %% tags=["drawing"]
fig, (left, right) = plots.figure(2)
for i, kv in enumerate(FORMATS):
    said, first = f"{kv}, {kv_bits(kv, tiny.config.d_head):.3g} bits", int(kv.startswith("kivi"))  # which has 32 tokens in full
    plots.series(left, i, EDGES[1 + first :], [value for value, _ in by_context[kv][first:]], said)
plots.log_scales(left, EDGES[1:])
last = {kv: found[-1].value for kv, found in by_context.items()}
holds = last["int8"] == min(last.values()) and last["kivi2"] == max(last.values()) and last["int4"] > 2 * last["kivi4"]
title = plots.finding(f"4 bits: keys per channel take KL down {last['int4'] / last['kivi4']:.0f} times", holds, counted=True)
plots.label(left, title, "tokens before (up to)", "KL divergence (nats a token)")
left.set_ylim(top=max(value for found in by_context.values() for value, _ in found) * 40)
left.legend(frameon=False, fontsize=8, ncols=2, loc="upper left")
for i, ((way, bits), found) in enumerate(key_errors.items()):
    plots.series(right, i, KEY_SIZES, found, f"{way}, {bits} bits")
plots.log_scales(right, KEY_SIZES)
gain = key_errors["per token", 2][-1] / key_errors["per channel", 2][-1]
holds = key_errors["per channel", 2][-1] < 1.2 * key_errors["per channel", 2][0] and gain > 2
title = plots.finding("Per channel, an outlier costs the others nothing", holds, counted=True)
plots.label(right, title, "outlier channel, times the usual size", "relative error of the other channels")
right.set_ylim(top=max(map(max, key_errors.values())) * 15)
right.legend(frameon=False, fontsize=8, ncols=2, loc="upper left")
plots.show(fig)

# %% [markdown]
# **The gap** between formats is the size of a step: in 4 bits it is 17 times that of 8, and in 2 bits five times that of 4.
# Heads of 32 are short: each row's scale and minimum are a whole bit a number, and a rotation has few channels to spread an
# outlier over.
#
# ## TTFT and throughput: exact and int8 activations
#
# A model of 120 million random weights in Q8_0, which does not fit into the processor's cache. Off is exact: activations keep
# 16 bits in the product. On they are rounded to 8, and one instruction multiplies four pairs of bytes a lane in place of two
# pairs of 16 bits: the ceiling of arithmetic is up to twice as high; both are measured. The ceiling of
# bandwidth is the same for both. Three rounds in turn; medians, and the spread.

# %% tags=["timing"]
LENGTHS, BATCHES, BEFORE, STEPS = (16, 64, 192), (1, 4, 8, 16, 32), 32, 3
write_repeated(FOLDER / "random.gguf", SHAPE, "Q8_0")
backend, machine = fitting_backend(WORTH_COMPILING), kept_machine()
peaks = {kind: machine.peak(backend == "numba", kind) for kind in ("exact", "int8")}
transformers = {kind: LLM(str(FOLDER / "random.gguf"), backend, activations=kind).transformer for kind in peaks}


def wait(kind, tokens):
    return prefill_seconds(transformers[kind], tokens)


def pace(kind, batch):
    """Tokens/s of the fastest of a few steps."""
    model = transformers[kind]
    full = fill(model.new_cache(BEFORE + STEPS), SHAPE, BEFORE)
    return batch / min(decode_seconds(model, [full.fork() for _ in range(batch)], STEPS))


waits = curves({kind: partial(wait, kind) for kind in peaks}, LENGTHS)
paces = curves({kind: partial(pace, kind) for kind in peaks}, BATCHES)
floors = {kind: [prefill_time(SHAPE, n, peaks[kind]) for n in LENGTHS] for kind in peaks}
bits = 8 * (FOLDER / "random.gguf").stat().st_size / SHAPE.parameters()
most = {
    kind: [b / step_time(SHAPE, peaks[kind], machine.read_bytes_per_s, b, BEFORE, bits=bits, kv_bits=32) for b in BATCHES]
    for kind in peaks
}
print(f"{SHAPE.parameters() / 1e6:.0f} million weights of {bits:.2f} bits on {backend}")
print(f"{machine.read_bytes_per_s / 1e9:.1f} GB/s, at most {peaks['exact'] / 1e9:.0f} and {peaks['int8'] / 1e9:.0f} GFLOP/s")
for kind in peaks:
    print(f"{kind:6} TTFT (ms)", *(f"{n}: {1e3 * t:.1f}" for n, t in zip(LENGTHS, medians(waits[kind]), strict=True)))
    shares = zip(BATCHES, medians(paces[kind]), most[kind], strict=True)
    print(f"{'':6} tokens/s ", *(f"{b}: {p:,.0f} ({p / top:.0%})" for b, p, top in shares))


def gain_of(found, at):
    """The median over the rounds of int8 over exact."""
    return float(np.median([b / a for a, b in zip(found["exact"][at], found["int8"][at], strict=True)]))


shorter, many, one = gain_of(waits, -1), gain_of(paces, -1), gain_of(paces, 0)
for name, value in {
    "prompt": LENGTHS[-1], "prefill_ratio": f"{shorter:.0%}", "large_batch": BATCHES[-1], "large_ratio": f"{many:.2f}",
    "one_ratio": f"{one:.2f}", "millions": f"{SHAPE.parameters() / 1e6:.0f}",
    "gflop": f"{SHAPE.prefill_flops(LENGTHS[-1]) / 1e9:.0f}",
    "peak exact": f"{peaks['exact'] / 1e9:.0f}", "peak int8": f"{peaks['int8'] / 1e9:.0f}",
    "floor exact": f"{1e3 * floors['exact'][-1]:.0f}",
    "floor int8": f"{1e3 * floors['int8'][-1]:.0f}", "prefill_share": f"{floors['int8'][-1] / medians(waits['int8'])[-1]:.0%}",
    "exact_share": f"{floors['exact'][-1] / medians(waits['exact'])[-1]:.0%}",
}.items():  # fmt: skip
    quote(name, value)

# %% tags=["timing", "drawing"]
fig, (left, right) = plots.figure(2)
by_length = {(kind, n): waits[kind][i] for kind in peaks for i, n in enumerate(LENGTHS)}
speeds = TypeSpeeds(backend, LENGTHS, {}, {}, by_length, {}, floors["int8"], {})
title = plots.finding(f"int8 activations take {shorter:.0%} of the time to the first token", shorter < 0.95)
ttft_panel(left, speeds, list(peaks), title)
left.plot(LENGTHS, [1e3 * t for t in floors["exact"]], color="0.5", linestyle=":", label="the same, of 16-bit products")
plots.check_floor("exact", medians(waits["exact"]), floors["exact"])
plots.legend(left)
for i, kind in enumerate(peaks):
    plots.check_ceiling(kind, medians(paces[kind]), most[kind])
    right.plot(BATCHES, most[kind], color="black", linestyle=(":", "--")[i], linewidth=1.2, label=f"ceiling, {kind}")
    plots.series(right, i, BATCHES, medians(paces[kind]), kind)
    plots.spread(right, BATCHES, paces[kind])
plots.log_scales(right, BATCHES)
plots.log_heights(right, (100, 200, 500, 1000, 2000))
title = plots.finding(f"Batch {BATCHES[-1]}: {many:.2f} times the tokens/s; batch 1: {one:.2f}", many > 1.05)
plots.label(right, title, "sequences that decode together", "throughput (tokens/s)")
right.legend(frameon=False, loc="upper left")
plots.show(fig)

# %% [markdown]
# **The gap**: at batch 1 both wait for the weights, and run into the same ceiling. With more sequences the exact path meets its
# arithmetic first. What is left below the ceiling of int8 is not arithmetic of bytes: scales are floats, one multiplication for
# each block of 32, activations have to be rounded, and attention, norms and Python are what they were.
#
# ## How many more requests fit
#
# Llama-3-8B in 4.5 bits on 24 GB: what 90% of the memory leaves for tokens, by format. Then `tiny` under a load: 16 requests of
# 32 tokens, each of which wants 32 more, in a pool of equal bytes. Who finds no block is preempted, and computed again.

# %%
LLAMA = preset("llama-3-8b")
stored = {kv: kv_bits(kv, LLAMA.d_head) for kv in ("float16", "int8", "int4", "kivi2")}
room = {kv: kv_tokens(LLAMA, 24e9, weight_bits=4.5, kv_bits=size) for kv, size in stored.items()}
print(", ".join(f"{kv} {tokens:,.0f}" for kv, tokens in room.items()), "tokens beside the weights")
REQUESTS, PROMPT, NEW, BLOCK = 16, 32, 32, 16
MEMORY = 20 * BLOCK * kv_token_bytes(tiny.config, "float16")


def under_load(kv):
    """Requests that ran in each step, preemptions, and tokens that the pool holds."""
    engine = Engine(LLM((tiny.transformer, tiny.tokenizer), kv=kv),
                    SchedulerConfig(MEMORY // (BLOCK * kv_token_bytes(tiny.config, kv)), BLOCK, max_sequences=REQUESTS,
                                    max_tokens_per_step=256))  # fmt: skip
    rng, running = np.random.default_rng(0), []
    params = SamplingParams(max_tokens=NEW, ignore_eos=True)
    asked = [engine.add(rng.integers(0, tiny.config.vocab_size, PROMPT).tolist(), params) for _ in range(REQUESTS)]
    while engine.has_work:
        engine.step()
        running.append(len(engine.scheduler.running))
    again = sum(event.kind == PREEMPTED for request in asked for event in engine.log.events_of(request))
    return running, again, engine.config.num_blocks * BLOCK


load = {kv: under_load(kv) for kv in ("float16", "int8", "int4")}
for kv, (running, again, tokens) in load.items():
    print(f"{kv:8} {tokens:6,} tokens, at most {max(running):2} at once, {len(running):3} steps, {again:3} preemptions")
    quote(f"running {kv}", max(running))
    quote(f"mean {kv}", f"{np.mean(running):.0f}")
    quote(f"preempted {kv}", again)
    quote(f"steps {kv}", len(running))

# %% tags=["drawing"]
fig, (left, right) = plots.figure(2)
plots.bars(left, [f"{kv},\n{kv_bits(kv, LLAMA.d_head):.4g} bits" for kv in room], [tokens / 1e3 for tokens in room.values()], "")
more = room["int4"] / room["float16"]
left.set_ylim(top=1.15 * max(room.values()) / 1e3)
title = plots.finding(f"int4 holds {more:.1f} times the tokens of float16", more > 3.2, counted=True)
plots.label(left, title, "Llama-3-8B in 4.5 bits on 24 GB", "tokens of KV cache (thousands)")
for i, (kv, (running, _, _)) in enumerate(load.items()):
    right.step(range(1, len(running) + 1), running, color=plots.COLOURS[i], linestyle=("-", "--", "-.")[i], where="mid", label=kv)
fewer = load["int4"][1] < load["float16"][1] and len(load["int4"][0]) < len(load["float16"][0])
title = plots.finding(f"{load['float16'][1]} preemptions in float16, {load['int4'][1]} in int4", fewer, counted=True)
plots.label(right, title, "step of the engine", "requests that run")
plots.legend(right)
plots.show(fig)
home.cleanup()

# %% [markdown]
# **The gap** between 4 times fewer bits and the tokens that fit is scales and minima: 4.25 bits in heads of 128, 5 in those of
# 32.
#
# ## Try it
#
# How many users does a GPU hold? Predict, then move. (Needs `ipywidgets`.)

# %% tags=["skip-execution"]
from ipywidgets import interact

from minillm.costs.memory import KV_NAMES
from minillm.model.presets import PRESETS


@interact(name=list(PRESETS), gigabytes=(8, 192, 8), weight_bits=(2, 16, 0.5), kv=list(KV_NAMES), context=(512, 131072, 512))
def users(name="llama-3-8b", gigabytes=24, weight_bits=4.5, kv="int8", context=8192):
    config = preset(name)
    tokens = kv_tokens(config, 1e9 * gigabytes, weight_bits=weight_bits, kv_bits=kv_bits(kv, config.d_head))
    print(f"{tokens:,.0f} tokens: {tokens // context:,.0f} users of {context:,}")
