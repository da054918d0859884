# %% [markdown]
# # 07 · Weight-only quantization: four bits that behave like sixteen
#
# The lesson ([07_quantization.md](../lessons/07_quantization.md)) claims: what counts is the error of the product, not that of
# the weight; so GPTQ and AWQ beat rounding where bits are few; evenly spaced levels are not the best, and neither are NF4's;
# fewer bits make decode faster, and prefill not; and a rotation helps where there are outliers. We round four weights by hand,
# then whole models.

# %%
import json
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

import minillm
from minillm import LLM, plots
from minillm.bench.block_types import SHAPE, measure_types, throughput_panel, ttft_panel
from minillm.bench.machine import kept_machine
from minillm.calibration.collect import chunks_of, collect
from minillm.calibration.folding import awq_layer, clip_and_round
from minillm.calibration.layers import quantize_layers
from minillm.calibration.statistics import ActivationStatistics, salience
from minillm.calibration.texts import story_texts
from minillm.course.notebooks.figures import quote
from minillm.formats.codebook_quants import IQ4_NL
from minillm.model.adapters import FIELDS
from minillm.quantization.affine import Grid, round_to_nearest
from minillm.quantization.fp4 import LEVELS, quantize_fp4, quantize_mxfp4, quantize_nvfp4
from minillm.quantization.gptq import gptq
from minillm.quantization.lloyd_max import quantize_codebook, quantize_lloyd_max
from minillm.quantization.nf4 import nf4_levels
from minillm.quantization.rotations import rotation

home = tempfile.TemporaryDirectory()
FOLDER = Path(home.name)
texts = story_texts()
original = LLM("tiny", "numpy")
chunks = list(chunks_of(original.tokenizer, texts.calibration, 512, 4))

# %% [markdown]
# ## Four weights by hand, and one model
#
# Two bits, one group, and two columns whose inputs rise and fall together (correlation 0.8). All 256 ways to choose the codes,
# and the output error of each: rounding to nearest is not the best, GPTQ finds the best.

# %%
WEIGHTS = np.float32([[-0.50, 0.14, 0.12, 0.70]])
H = np.eye(4)
H[1, 2] = H[2, 1] = 0.8
near, clever = round_to_nearest(WEIGHTS, Grid(2, 4)), gptq(WEIGHTS, H, Grid(2, 4), damping=0)


def lost(codes):
    """Output error of these codes: δᵀHδ."""
    delta = near.scales[0, 0] * np.asarray(codes) + near.minima[0, 0] - WEIGHTS[0]
    return float(delta @ H @ delta)


every = [(a, b, c, d) for a in range(4) for b in range(4) for c in range(4) for d in range(4)]
for name, made in (("nearest", near), ("GPTQ", clever), ("best of 256", None)):
    codes = made.codes[0].tolist() if made else min(every, key=lost)
    print(f"{name:12}{codes}  output error {lost(codes):.4f}")

# %% [markdown]
# Then `tiny`, layer by layer, 3 bits in groups of 64: each matrix is quantized on the inputs that the quantized layers before it
# produce. An error is the share of the output's energy that is lost, summed over the seven matrices of a layer.

# %%
GRID = Grid(3, 64)
WAYS = {  # what quantizes a matrix, and what is done to a layer before
    "nearest": (lambda name, w, x: round_to_nearest(w, GRID), lambda layer: None),
    "AWQ": (partial(clip_and_round, grid=GRID), partial(awq_layer, grid=GRID)),
    "GPTQ": (lambda name, w, x: gptq(w, x.hessian, GRID), lambda layer: None),
}
errors = {way: [layer.errors for layer in quantize_layers(original.transformer, chunks, *WAYS[way], least=0)] for way in WAYS}
layers = range(len(errors["nearest"]))
for way in WAYS:
    print(f"{way:8}", *(f"{sum(layer.values()):.3f}" for layer in errors[way]))
total = {way: sum(sum(layer.values()) for layer in errors[way]) for way in WAYS}
ratio, awq_ratio = total["GPTQ"] / total["nearest"], total["AWQ"] / total["nearest"]
pairs = [(layer["GPTQ"][name], layer["nearest"][name]) for layer in
         ({way: errors[way][i] for way in WAYS} for i in layers) for name in layer["GPTQ"]]  # fmt: skip
quote("gptq_ratio", f"{ratio:.0%}")
quote("awq_ratio", f"{awq_ratio:.0%}")
print(plots.finding(f"GPTQ is below rounding in all {len(pairs)} matrices", all(a < b for a, b in pairs), counted=True))

# %% tags=["drawing"]
fig, (left, right) = plots.figure(2)
x, y = np.meshgrid(np.linspace(-0.45, 0.45, 181), np.linspace(-0.45, 0.45, 181))
left.contour(x, y, x * x + y * y + 1.6 * x * y, levels=[0.005, 0.0177, 0.05, 0.104, 0.2, 0.4], colors="0.6", linewidths=1)
step, low = float(near.scales[0, 0]), float(near.minima[0, 0])
points = [(step * a + low - 0.14, step * b + low - 0.12) for a in range(4) for b in range(4)]
left.plot(*zip(*points, strict=True), ".", color="0.35", markersize=7, label="a pair of codes")
for made, index, name in ((near, 1, "nearest"), (clever, 2, "GPTQ")):
    codes = made.codes[0, 1:3]
    left.plot(*(step * codes + low - WEIGHTS[0, 1:3]), marker=plots.MARKERS[index], color=plots.COLOURS[index], markersize=11,
              linestyle="", label=f"{name}: {codes[0]} {codes[1]}, error {lost(made.codes[0]):.3f}")  # fmt: skip
title = plots.finding("The nearest codes lie up the slope", lost(near.codes[0]) > 5 * lost(clever.codes[0]), counted=True)
plots.label(left, title, "error of the second weight", "error of the third weight")
left.legend(frameon=False, loc="upper right", fontsize=9)
left.set(xlim=(-0.45, 0.45), ylim=(-0.45, 0.95))
for i, way in enumerate(WAYS):
    plots.series(right, i, layers, [sum(layer.values()) for layer in errors[way]], way)
holds = ratio < 0.8 and awq_ratio < 1
title = plots.finding(f"In 3 bits GPTQ leaves {ratio:.0%} of the error, AWQ {awq_ratio:.0%}", holds, counted=True)
plots.label(right, title, "layer of tiny", "share of the outputs' energy lost, 7 matrices")
right.set_xticks(layers)
right.set_ylim(bottom=0)
plots.legend(right)
plots.show(fig)

# %% [markdown]
# **The gap** between nearest and GPTQ is what inputs have in common: of independent inputs H would be diagonal, and nothing could
# be made good. AWQ moves bits to the columns that matter, and its error still falls on each column by itself.
#
# ## Levels: even, normal, floating, best
#
# Eight formats of about four bits, in blocks of 64 where the format leaves the choice, on normal weights and those of `tiny`.
# Lloyd-Max has its sixteen levels fitted to the weights at hand, over the largest of each block: no table does better with such
# blocks, and no format ships it, as it needs one for each matrix. It and IQ4_NL use the sign of the scale: the largest weight
# of a block is always at the same end, so that the other end need not reach as far.

# %%
IQ4 = np.array(IQ4_NL, np.float32) / 127
FORMATS = {  # name: quantizer, its levels over the largest magnitude of a block (None where they depend on it)
    "symmetric": (lambda w: round_to_nearest(w, Grid(4, 64, True)), (np.arange(16) - 8) / 7.5),
    "MXFP4": (quantize_mxfp4, None),
    "FP4": (quantize_fp4, np.unique(LEVELS) / 6),
    "NF4": (lambda w: quantize_codebook(w, nf4_levels()), nf4_levels()),
    "IQ4_NL": (lambda w: quantize_codebook(w, IQ4, signed=True), IQ4),
    "asymmetric": (lambda w: round_to_nearest(w, Grid(4, 64)), None),
    "NVFP4": (quantize_nvfp4, None),
    "Lloyd-Max": (partial(quantize_lloyd_max, signed=True), None),
}
normal = np.random.default_rng(0).standard_normal((512, 1024)).astype(np.float32)
matrices = [getattr(layer, field) for layer in original.transformer.weights.layers for field in FIELDS.values()]


def relative(quantizer, matrices):
    """Squared error over squared weights, and the bits of a weight."""
    found = [quantizer(w) for w in matrices]
    wrong = sum(float(np.square(made.dense() - w).sum(dtype=np.float64)) for made, w in zip(found, matrices, strict=True))
    return wrong / sum(float(np.square(w).sum(dtype=np.float64)) for w in matrices), found[0].bits_per_weight


made = {name: (relative(quantizer, [normal]), relative(quantizer, matrices)) for name, (quantizer, _) in FORMATS.items()}
print(f"{'':12}{'bits':>6}{'normal':>9}{'tiny':>9}   relative squared error, 10⁻³")
for name, ((error, bits), (of_tiny, _)) in made.items():
    quote(f"normal {name}", f"{1e3 * error:.1f}")
    print(f"{name:12}{bits:6.3g}{1e3 * error:9.1f}{1e3 * of_tiny:9.1f}")
on_normal = {name: each[0][0] for name, each in made.items()}
order = on_normal["Lloyd-Max"] < on_normal["IQ4_NL"] < on_normal["NF4"] < min(on_normal["FP4"], on_normal["symmetric"])
print(plots.finding("Lloyd-Max < IQ4_NL < NF4 < symmetric integers and FP4", order, counted=True))

# %% tags=["drawing"]
fig, (left, right) = plots.figure(2)
places = range(len(made))
for i, name in enumerate(("normal weights", "tiny's matrices")):
    left.plot([1e3 * each[i][0] for each in made.values()], places, color=plots.COLOURS[i], marker=plots.MARKERS[i], linestyle="",
              markersize=8, label=name)  # fmt: skip
left.set_yticks(places, [f"{name}, {each[0][1]:.4g} bits" for name, each in made.items()], fontsize=8)
share = on_normal["NF4"] / on_normal["Lloyd-Max"] - 1
title = plots.finding(f"NF4's error is {share:.0%} above the least", 0.03 < share < 0.3, counted=True)
plots.label(left, title, "relative squared error (10⁻³)", "")
left.set(xlim=(0, 15), ylim=(-0.6, len(made) - 0.4))
left.legend(frameon=False, loc="upper right")
tables = {name: levels for name, (_, levels) in FORMATS.items() if levels is not None}
tables["Lloyd-Max, normal"] = quantize_lloyd_max(normal, signed=True).levels
for i, levels in enumerate(tables.values()):
    right.plot(levels, [i] * len(levels), "|", color="black", markersize=18, markeredgewidth=1.6)
right.set_yticks(range(len(tables)), list(tables), fontsize=8)
right.set_ylim(-0.6, len(tables) - 0.4)
inner, outer = (np.diff(tables["Lloyd-Max, normal"])[[7, 0]]).tolist()
plots.label(right, plots.finding("The best levels crowd where weights do", inner < 0.7 * outer, counted=True),
            "level, over the largest magnitude of a block", "")  # fmt: skip
plots.show(fig)

# %% [markdown]
# **The gap** between NF4 and Lloyd-Max is that levels at quantiles are used alike, which is not the same as least error; and the
# largest weight of each block lies at one of two ends, where a sign in the scale would leave one. Asymmetric integers and NVFP4
# take 4.5 bits.

# %% [markdown]
# ## Bits and quality of whole models
#
# `minillm bench quantization` makes a file by each method and judges it on held-out stories, beside the original: over 50,000
# tokens for `tiny`, 10,000 for SmolLM2, the same for all files, so that differences are paired. It takes longer than a notebook
# may, so its figures were [kept](../data/results/quantization.json), and are drawn here. SmolLM2 comes in 4 bits already
# (Q4_1): rows whose grid contains that one lose nothing, and are left out.

# %%
kept = json.loads((Path(minillm.__file__).parents[1] / "data" / "results" / "quantization.json").read_text())
STYLES = {"rtn": 0, "hqq": 1, "awq": 2, "gptq": 3}


def rows_of(name):
    return [row for row in kept[name]["rows"] if not row["holds_the_source"]]


def front(rows):
    """The rows that no other beats in bits and in KL."""
    best, found = float("inf"), []
    for row in sorted(rows, key=lambda row: (row["bits_per_weight"], row["kl"])):
        if row["kl"] < best:
            best = row["kl"]
            found.append(row)
    return found


for name, result in kept.items():
    print(f"{name}: {result['scored_tokens']:,} tokens, perplexity of the original {result['base']['perplexity']:.4f}")
    for row in sorted(rows_of(name), key=lambda row: (-row["bits"], row["kl"])):
        paired = f"{row['kl_less_rtn']:+.5f} ± {row['kl_less_rtn_error']:.5f} to rtn" if "kl_less_rtn" in row else ""
        print(f"  {row['method']:9}{row['bits_per_weight']:5.2f} bits  KL {row['kl']:.5f} ± {row['kl_error']:.5f}  perplexity "
              f"{row['perplexity']:.4f}  same choice {row['agreement']:.1%}  {paired}")  # fmt: skip
small = {(row["method"], row["bits"]): row for row in rows_of("tiny")}
for (method, bits), row in small.items():
    quote(f"kl {method} {bits}", f"{row['kl']:.3f}" if row["kl"] >= 0.01 else f"{row['kl']:.4f}")
    quote(f"changed {method} {bits}", f"{1 - row['agreement']:.0%}" if row["agreement"] < 0.99 else f"{1 - row['agreement']:.1%}")
wins = [small[method, bits]["kl_less_rtn"] + 3 * small[method, bits]["kl_less_rtn_error"] < 0
        for method in ("gptq", "awq") for bits in (3, 4)]  # fmt: skip
print(plots.finding("GPTQ and AWQ are below rounding at 3 and 4 bits, by more than 3 standard errors", all(wins), counted=True))

# %% tags=["drawing"]
fig, (left, right) = plots.figure(2)
rows = [row for row in rows_of("tiny") if row["bits"] < 8]
for method, index in STYLES.items():
    mine = sorted((row for row in rows if row["method"] == method), key=lambda row: row["bits_per_weight"])
    plots.series(left, index, [row["bits_per_weight"] for row in mine], [row["kl"] for row in mine], method)
for row in rows:
    if row["method"] not in STYLES:
        left.plot(row["bits_per_weight"], row["kl"], ".", color="0.3")
        place = ("top", "right") if row["bits_per_weight"] < 4.4 or row["method"] == "k" else ("center", "left")
        left.annotate(f" {row['method']} ", (row["bits_per_weight"], row["kl"]), fontsize=7, va=place[0], ha=place[1])
best = front(rows)
left.step([row["bits_per_weight"] for row in best], [row["kl"] for row in best], where="post", color="0.6", linewidth=1,
          zorder=0, label="Pareto front")  # fmt: skip
left.set_yscale("log")
share = small["gptq", 3]["kl"] / small["rtn", 3]["kl"]
title = plots.finding(f"tiny: at 3 bits GPTQ has {share:.0%} of rounding's KL", share < 1, counted=True)
plots.label(left, title, "bits per weight of the layers' matrices", "KL divergence to the original (nats a token)")
left.legend(frameon=False, loc="upper right")
three = {row["method"]: row for row in rows_of("smollm2 135M") if row["bits"] == 3}
names = list(STYLES)
plots.bars(right, names, [three[name]["kl"] for name in names], "")
right.errorbar(names, [three[name]["kl"] for name in names], [2 * three[name]["kl_error"] for name in names], fmt="none",
               ecolor="black", capsize=4)  # fmt: skip
shares = {name: three[name]["kl"] / three["rtn"]["kl"] for name in ("gptq", "awq")}
quote("smol gptq", f"{shares['gptq']:.0%}")
quote("smol awq", f"{shares['awq']:.0%}")
quote("smol_tokens", f"{kept['smollm2 135M']['scored_tokens']:,}")
title = f"SmolLM2, 3 bits: GPTQ has {shares['gptq']:.0%} of rounding's KL, AWQ {shares['awq']:.0%}"
plots.label(right, plots.finding(title, max(shares.values()) < 0.6, counted=True), "3.5 bits per weight, ± 2 standard errors",
            "KL divergence (nats a token)")  # fmt: skip
plots.show(fig)

# %% [markdown]
# **The gap** between both pictures is the model. SmolLM2's inputs have outliers, those of `tiny` hardly any. So knowing inputs
# is worth most in SmolLM2, and AWQ, made for that, comes out first. In `tiny` a bit is worth far more than a method.
#
# ## TTFT and throughput by format
#
# A model of random weights that does not fit into the processor's cache; of each type the same few blocks are repeated, since
# what they say costs nothing. Off is F16, on are the formats. The ceiling of each is the bandwidth over its own bytes. Three
# rounds in turn; medians, and the spread.

# %% tags=["timing"]
SPEED_TYPES = ("F16", "INT8_G64", "INT4_G64", "NF4", "INT3_G64", "INT2_G64")
speeds = measure_types(FOLDER, SPEED_TYPES, lengths=(16, 64, 192))
machine, prompt = kept_machine(), speeds.lengths[-1]
peak = machine.peak(speeds.backend != "numpy")
print(f"{SHAPE.parameters() / 1e6:.0f} million weights on {speeds.backend}; "
      f"{machine.read_bytes_per_s / 1e9:.1f} GB/s, at most {peak / 1e9:.0f} GFLOP/s")  # fmt: skip
for type in SPEED_TYPES:
    pace, most = speeds.pace(type), speeds.most[type]
    print(f"{type:9}{speeds.bits[type]:7.3f} bits{pace:8.1f} tokens/s, {pace / most:4.0%} of {most:6.1f}; "
          f"TTFT of {prompt} tokens {1e3 * speeds.wait(type):6.0f} ms")  # fmt: skip

# %% tags=["timing", "drawing"]
fig, (left, right) = plots.figure(2)
longer = speeds.wait("INT4_G64") / speeds.wait("INT8_G64")
faster = speeds.pace("INT4_G64") / speeds.pace("F16")
fewer = speeds.bits["INT8_G64"] / speeds.bits["INT4_G64"]
title = plots.finding(f"{fewer:.1f} times fewer bits than INT8, {longer:.2f} times its TTFT", longer > 1.5 / fewer)
ttft_panel(left, speeds, ("F16", "INT8_G64", "INT4_G64", "NF4"), title)
throughput_panel(right, speeds, plots.finding(f"Decode in INT4 is {faster:.1f} times as fast as in F16", faster > 1.2))
plots.show(fig)
floats = speeds.wait("NF4") / speeds.wait("INT8_G64")
for name, value in {
    "prompt": prompt, "ttft_ratio": f"{longer:.2f}", "nf4_ratio": f"{floats:.1f}", "pace_ratio": f"{faster:.1f}",
}.items():  # fmt: skip
    quote(name, value)

# %% [markdown]
# **The gap** to the ceiling widens with fewer bits: there is less to read, and unpacking, attention and Python stay what they
# were. In prefill a weight is unpacked once and used for many tokens, so bits hardly matter; what differs is the arithmetic. F16
# has a kernel that multiplies floats, and so has NF4, whose levels are no whole numbers; integers are multiplied as such.
#
# ## Outliers, and a rotation
#
# What flows into the query matrices of `tiny`: the largest magnitude of each channel, sorted, over the median. Then AWQ's
# observation, on the matrix with the most uneven inputs: 1% of the columns are spared, chosen by their weights or by their
# inputs. On the right a matrix whose weights have outliers, because we put them there, and the same matrix rotated.

# %%
seen = ActivationStatistics()
collect(original.transformer, chunks, seen)
channels = {i: np.sort(seen[f"blk.{i}.attn_q.weight"].max_abs)[::-1] for i in range(original.transformer.config.n_layers)}
uneven = {i: float(sizes[0] / np.median(sizes)) for i, sizes in channels.items()}
quote("tiny_outlier", f"{max(uneven.values()):.0f}")
spared = {}


def see(name, weights, inputs):
    spared[name] = salience(weights, inputs, GRID)
    return round_to_nearest(weights, Grid(8, 64))


list(quantize_layers(original.transformer, chunks, see, least=0))
won = sum(rules["activation"] < rules["weight"] for rules in spared.values())
print(f"sparing 1% of the columns by activation beats by weight in {quote('salience_won', won)} of {len(spared)} matrices")
mean = {rule: np.mean([rules[rule] / rules["none"] for rules in spared.values()]) for rule in ("random", "weight", "activation")}
print("error left, of none spared:", *(f"{rule} {quote(f'spared {rule}', f'{share:.0%}')}" for rule, share in mean.items()))

weights = original.transformer.weights.layers[0].gate
width = weights.shape[1]
turn = rotation(width, 0).astype(np.float32)
injected = weights.copy()
injected[:, np.random.default_rng(0).choice(width, 3, replace=False)] *= 20
cases = {"as it is": weights, "outliers injected": injected}
found = {}
for name, w in cases.items():
    for turned in (False, True):
        x = w @ turn if turned else w
        found[name, turned] = float(np.square(round_to_nearest(x, Grid(4, 64)).dense() - x).sum() / np.square(x).sum())
gain = 1 - found["outliers injected", True] / found["outliers injected", False]
quote("rotation_gain", f"{gain:.0%}")

# %% tags=["drawing"]
fig, (left, right) = plots.figure(2)
for i, layer in enumerate(sorted(uneven, key=uneven.get)[::-2]):
    sizes = channels[layer]
    left.plot(range(1, len(sizes) + 1), sizes / np.median(sizes), color=plots.COLOURS[i], linestyle=("-", "--", "-.")[i],
              label=f"layer {layer}")  # fmt: skip
left.set_xscale("log")
largest = max(uneven.values())
title = plots.finding(f"The largest channel is {largest:.0f} times the median", largest < 100, counted=True)
plots.label(left, title, "channel, sorted by size", "largest magnitude / median")
plots.legend(left)
names = [f"{name},\n{'rotated' if turned else 'plain'}" for name, turned in found]
plots.bars(right, names, [1e3 * error for error in found.values()], "")
plots.label(right, plots.finding(f"A rotation takes {gain:.0%} off, where there are outliers", gain > 0.3, counted=True), "",
            "relative squared error, 4 bits (10⁻³)")  # fmt: skip
right.tick_params(axis="x", labelsize=8)
plots.show(fig)

# %% [markdown]
# **The gap** that the outliers had opened is closed by the rotation, and without outliers it changes next to nothing: rotated
# weights look normal, and those of a small model look so from the start.
#
# ## Try it
#
# How many bits may each weight have? Predict, then move. (Needs `ipywidgets`.)

# %% tags=["skip-execution"]
from ipywidgets import interact

from minillm.costs.memory import affordable_bits
from minillm.model.presets import PRESETS, preset


@interact(name=list(PRESETS), gigabytes=(8, 192, 8), tokens=(0, 131072, 1024), kv_bits=[4, 8, 16], share=(0.5, 1.0, 0.05))
def fits(name="llama-3-70b", gigabytes=24, tokens=8192, kv_bits=16, share=0.9):
    bits = affordable_bits(preset(name), 1e9 * gigabytes, tokens, share, kv_bits)
    print(f"{bits:.2f} bits a weight, scales included")
