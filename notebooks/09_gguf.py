# %% [markdown]
# # 09 · GGUF: one file, taken apart
#
# The lesson ([09_gguf.md](../lessons/09_gguf.md)) claims: a file is a header, names and aligned bytes; a block is small integers
# with a scale; searching that scale lowers the error for nothing; fewer bits cost quality, slowly and then fast; and decode
# gets faster with them, while prefill does not. We take a file apart, search one scale by hand, and measure the rest.

# %%
import tempfile
from pathlib import Path

import numpy as np

import minillm
from minillm import LLM, plots
from minillm.bench import loading
from minillm.bench.block_types import SHAPE, measure_types, throughput_panel, ttft_panel
from minillm.bench.machine import kept_machine
from minillm.bench.quality import compare, predictions
from minillm.calibration.importance import importance_matrix
from minillm.course.notebooks.figures import quote
from minillm.formats import gguf_plot
from minillm.formats.anatomy import lines, walk
from minillm.formats.blocks import BLOCK_TYPES, dequantize, quantize
from minillm.formats.gguf import open_gguf
from minillm.formats.gguf_layout import sections
from minillm.formats.requantize import requantize
from minillm.formats.scale_search import peak, search_scale
from minillm.model.presets import preset
from minillm.model.zoo import resolve
from minillm.training.data import read_corpus, split
from minillm.training.prepare import END_OF_TEXT

DASHED = {"color": "black", "linestyle": "--", "linewidth": 1.2}
EXAMPLE = "blk.0.attn_q.weight"
home = tempfile.TemporaryDirectory()
FOLDER = Path(home.name)


def bits_of(path):
    """Bits per weight over all tensors of a file."""
    with open_gguf(path) as file:
        tensors = file.tensors.values()
        return 8 * sum(t.nbytes for t in tensors) / sum(t.size for t in tensors)


# %% [markdown]
# ## A file, byte by byte
#
# First the one that `tiny` comes in, in 16 bits: 24 bytes of header, then key after key, then the table, then the data. Then the
# same model in Q4_0, and the block of our example in it.

# %%
tiny = open_gguf(resolve("tiny"))
raw = resolve("tiny").read_bytes()
print("header: ", raw[:24].hex(" "))
for section in sections(tiny):
    if section.nbytes > 4_000 or section.kind in ("header", "table"):
        print(f"{section.begin:>11,}{section.nbytes:>11,}  {section.kind:8}{section.name}")
    if section.name == EXAMPLE:
        print(f"{'…':>11}")
        break

with open_gguf(resolve("tiny")) as source:
    requantize(source, FOLDER / "tiny-q4_0.gguf", "q4_0")
q4_0 = open_gguf(FOLDER / "tiny-q4_0.gguf")
print(f"\nin Q4_0: {quote('q4_0_mb', f'{q4_0.nbytes / 1e6:.2f}')} MB, {bits_of(FOLDER / 'tiny-q4_0.gguf'):.2f} bits a weight\n")
print("\n".join(lines(walk(q4_0, EXAMPLE, 0))))
block = q4_0.raw(EXAMPLE)[:18]

# %% tags=["drawing"]
fig, (left, right) = plots.figure(2, height=4.6)
gguf_plot.draw_map(left, q4_0)
for at, byte in enumerate(block.tolist()):
    x, y = at % 6, at // 6
    right.add_patch(plots.square(x, y, "0.6" if at < 2 else "0.92"))
    right.text(x + 0.5, y + 0.42, f"{byte:02x}", ha="center", va="center", fontsize=13)
    what = "d" if at < 2 else f"{at - 2} · {at + 14}"
    right.text(x + 0.5, y + 0.78, what, ha="center", va="center", fontsize=8)
right.set(xlim=(0, 6), ylim=(3, 0), xticks=[], yticks=[])
right.grid(False)
title = plots.finding("18 bytes are 32 weights: 4.5 bits each", 8 * len(block) / 32 == 4.5, counted=True)
plots.label(right, title, "below each byte: d, or the two weights it holds, low half · high half", "")
plots.show(fig)

# %% [markdown]
# **The gap** between 4.5 bits and those of the file is the embedding, which has 6.56, and the norms in 32.
#
# ## A scale by hand, and one that is searched
#
# The first 32 weights of the first query matrix. The plain scale makes the largest weight exact. The curve is the squared error
# of the block with other scales, codes rounded anew for each. It is jagged, since a code jumps where a weight crosses the middle
# between two levels.

# %%
weights = tiny.dequantize(EXAMPLE)[0, :32].astype(np.float64)
top = weights[np.abs(weights).argmax()]
plain = top / -8
q = np.minimum(np.floor(weights / plain + 8.5), 15).astype(int)
print("codes:", " ".join(map(str, q)))
packed = np.float16(plain).tobytes() + (q[:16] | q[16:] << 4).astype(np.uint8).tobytes()
print("bytes:", packed.hex(" "), "| as in the file:", packed == block.tobytes())
print(f"largest {quote('largest', f'{top:.4f}')}, d = {quote('d', f'{plain:.5f}'.replace('-', '−'))}; "
      f"w0 {quote('w0', f'{weights[0]:.4f}')}, w16 {quote('w16', f'{weights[16]:.4f}'.replace('-', '−'))}")  # fmt: skip


def error_of(d):
    """Squared error of the block with this scale: codes are rounded, and cut to -8 … 7."""
    return float(np.square(np.clip(np.rint(weights / d), -8, 7) * d - weights).sum())


tried = plain * np.linspace(0.7, 1.2, 501)
curve = [1e3 * error_of(d) for d in tried]
column, ones = weights[:, None].astype(np.float32), np.ones((32, 1), np.float32)
searched = float(search_scale(column, ones, -8, 7)[0])
before, after = error_of(plain), error_of(searched)
print(f"squared error, plain: {quote('plain_error', f'{1e3 * before:.2f}')}e-3; 32 d²/12 is {32e3 * plain**2 / 12:.2f}e-3")
print(f"searched: d = {searched:.5f}, {1e3 * after:.2f}e-3: {quote('block_gain', f'{1 - after / before:.0%}')} less")
row = tiny.dequantize(EXAMPLE)[0]
for name in ("Q8_0", "Q6_K", "Q5_K", "Q4_K", "IQ4_NL", "MXFP4", "Q3_K", "Q2_K"):
    back = dequantize(quantize(row, BLOCK_TYPES[name]), BLOCK_TYPES[name], row.shape)[:32]
    print(f"our block in {name:7} {quote(f'block {name}', f'{1e3 * np.square(back - weights).sum():.2f}')}e-3, "
          f"{BLOCK_TYPES[name].bits_per_weight:g} bits a weight")  # fmt: skip

# %% [markdown]
# Then all matrices of `tiny`, in groups of 32, with codes of two to six bits: rounded with the plain scale, with a searched one,
# and with one that was searched for with importance. What is plotted counts an error as the product does: squared, times the
# mean square of the input that its column meets. Inputs are those of a few stories.

# %%
CORPUS = Path(minillm.__file__).parents[1] / "data" / "corpus" / "stories.txt.xz"
seen, unseen = split(read_corpus(CORPUS), END_OF_TEXT, 0.02)
original = LLM("tiny", "numpy")
encode = original.tokenizer.encode
importance = importance_matrix(original.transformer, [np.array(encode(story)[:512]) for story in seen[:12]], 512)


def groups_of(matrix):  # (rows, columns) -> (32, groups)
    return np.ascontiguousarray(matrix.reshape(-1, 32).T)


def error_with(x, scale, high, counts):
    """What an error of these groups counts."""
    q = np.clip(np.rint(x / np.where(scale == 0, 1, scale)), -high, high - 1)
    return float((counts * np.square(x - scale * q)).sum(dtype=np.float64))


WAYS, CODES = ("plain", "searched", "searched, with importance"), (2, 3, 4, 5, 6)
errors, smaller, equal = {(way, b): 0.0 for way in WAYS for b in CODES}, [], [0.0, 0.0]
total = 0.0
for name, info in tiny.tensors.items():
    if (sums := importance.importance(info)) is None:
        continue
    x, counts = groups_of(tiny.dequantize(name)), groups_of(np.broadcast_to(sums / sums.mean(), info.shape))
    total += float((counts * x * x).sum(dtype=np.float64))
    for b in CODES:
        high = 2 ** (b - 1)
        scales = (peak(x) / -high, search_scale(x, np.ones_like(x), -high, high - 1), search_scale(x, counts, -high, high - 1))
        for way, scale in zip(WAYS, scales, strict=True):
            errors[way, b] += error_with(x, scale, high, counts)
        if b == 4:
            smaller.append(np.abs(scales[1]) < np.abs(scales[0]))
            equal = [e + error_with(x, scale, high, 1) for e, scale in zip(equal, scales, strict=False)]
gains = {b: 1 - errors["searched", b] / errors["plain", b] for b in CODES}
helps = {b: 1 - errors["searched, with importance", b] / errors["searched", b] for b in CODES}
print("all errors alike, 4 bits: the search takes off", quote("tiny_gain", f"{1 - equal[1] / equal[0]:.0%}"))
print(f"blocks whose searched scale is smaller: {quote('smaller', f'{np.concatenate(smaller).mean():.0%}')}")
for b in CODES:
    print(f"{b} bits: relative error", *(f"{errors[way, b] / total:.2e}" for way in WAYS), f"| search {gains[b]:.0%} less, "
          f"importance {helps[b]:.0%} less again")  # fmt: skip
quote("importance_gain_2", f"{helps[2]:.0%}")
quote("importance_gain_4", f"{helps[4]:.0%}")

# %% tags=["drawing"]
fig, (left, right) = plots.figure(2)
left.plot(tried, curve, color=plots.COLOURS[0], linewidth=1.2, label="squared error of the block, codes rounded anew")
left.axhline(32e3 * plain**2 / 12, **DASHED, label="32 d² / 12, with the plain d")
left.plot([plain], [1e3 * before], color=plots.COLOURS[1], marker="s", linestyle="", label="plain: largest weight / -8")
left.plot([searched], [1e3 * after], color=plots.COLOURS[2], marker="^", markersize=9, linestyle="", label="searched")
title = plots.finding(f"Another scale takes {1 - after / before:.0%} off the error", after < 0.97 * before, counted=True)
plots.label(left, title, "scale d", "squared error (10⁻³)")
plots.legend(left)
for i, way in enumerate(WAYS):
    plots.series(right, i, CODES, [100 * errors[way, b] / errors["plain", b] for b in CODES], way)
    for b in CODES[:: len(CODES) - 1]:
        right.annotate(f"{errors[way, b] / total:.1e}", (b, 100 * errors[way, b] / errors["plain", b]), fontsize=8, va="bottom",
                       ha="left" if b == CODES[0] else "right")  # fmt: skip
holds = min(gains.values()) > 0 and min(helps.values()) > 0 and gains[4] > 0.05
title = plots.finding(f"At 4 bits the search takes off {gains[4]:.0%}, importance {helps[4]:.0%} more", holds, counted=True)
plots.label(right, title, "bits of a code, groups of 32", "error of the products (plain = 100%)")
right.set_xticks(CODES)
right.set_ylim(70, 112)
right.legend(frameon=False, loc="lower right")
plots.show(fig)

# %% [markdown]
# **The gap** between the dashed line and the curve is that errors are not uniform: the largest weight has none with the plain
# scale, and small weights have less than half a step to lose. The numbers on the right are relative errors: each bit less is
# about four times the squared error. Against that a search is worth a part of a bit, and it is free.
#
# ## Bits and quality
#
# Files of `tiny` in llama.cpp's mixes, judged on stories that it was not trained on: KL divergence to the file in F16,
# perplexity, and how often the first choice is another one. On the right stands what llama.cpp's authors measured on Llama-3-8B,
# the loss of perplexity by type
# ([quantize.cpp](https://github.com/ggml-org/llama.cpp/blob/master/tools/quantize/quantize.cpp), read in 2026).

# %%
PUBLISHED = {  # size in GiB, loss of perplexity
    "q8_0": (7.96, 0.0026), "q6_k": (6.14, 0.0217), "q5_k_m": (5.33, 0.0569), "q4_k_m": (4.58, 0.1754), "q4_0": (4.34, 0.4685),
    "q3_k_m": (3.74, 0.6569), "q2_k": (2.96, 3.5199),
}  # fmt: skip
texts = [encode(story)[:512] for story in unseen[:12]]
truth = predictions(original, texts)
print(f"judged on {sum(map(len, texts)):,} tokens of {len(texts)} stories held out")


def made(mix, source="tiny", imatrix=None, name=None):
    """A file of a model in this mix."""
    path = FOLDER / f"{name or mix}.gguf"
    with open_gguf(resolve(source)) as file:
        requantize(file, path, mix, imatrix)
    return path


def judged(path):
    return compare(predictions(LLM(str(path), "numpy"), texts), truth, texts)


found = {"f16": (16.0, compare(truth, truth, texts))}
for mix in (*PUBLISHED, "iq4_nl", "mxfp4"):
    path = made(mix)
    found[mix] = bits_of(path), judged(path)
print(f"{'':8}{'bits':>6}{'KL':>9}{'P99':>8}{'perplexity':>12}{'other first choice':>20}")
for mix, (bits, quality) in found.items():
    print(f"{mix:8}{bits:6.2f}{quality.kl:9.5f}{quality.kl_99:8.4f}{quality.perplexity:12.3f}{1 - quality.agreement:20.2%}")

# %% [markdown]
# Two questions about one size. Does importance help, where bits are few? And what does a second rounding cost?

# %%
few = made("q2_k", imatrix=importance, name="q2_k-importance")
twice = made("q4_k_m", source=str(FOLDER / "q4_0.gguf"), name="twice")
helped, rounded_twice = judged(few), judged(twice)
direct, two_bits = found["q4_k_m"][1], found["q2_k"][1]
print(f"Q2_K: KL {two_bits.kl:.4f}, with importance {quote('imatrix_kl', f'{helped.kl:.3f}')}: "
      f"{quote('imatrix_gain', f'{1 - helped.kl / two_bits.kl:.0%}')} less")  # fmt: skip
print(f"Q4_K_M from F16: KL {quote('direct_kl', f'{direct.kl:.4f}')}, from Q4_0: {quote('twice_kl', f'{rounded_twice.kl:.4f}')}")
hurts = helped.kl < two_bits.kl and rounded_twice.kl > direct.kl
print(plots.finding("importance helps two bits, and a second rounding hurts", hurts))
quote("f16_ppl", f"{found['f16'][1].perplexity:.3f}")
quote("q2_ppl", f"{two_bits.perplexity:.3f}")
quote("q2_kl", f"{two_bits.kl:.3f}")
quote("q2_changed", f"{1 - two_bits.agreement:.0%}")
quote("q4_changed", f"{1 - direct.agreement:.1%}")

# %% tags=["drawing"]
fig, (left, right) = plots.figure(2)
for i, (mix, (bits, quality)) in enumerate(found.items()):
    if mix != "f16":
        left.plot(bits, quality.kl, color=plots.COLOURS[i % 7], marker=plots.MARKERS[i % 7], markersize=7)
        left.annotate(f" {mix} ", (bits, quality.kl), fontsize=8, va="bottom", ha="right" if mix == "iq4_nl" else "left")
order = list(PUBLISHED)
ours, theirs = [found[mix][1].kl for mix in order], [PUBLISHED[mix][1] for mix in order]
swapped = [(a, b) for a, b in zip(order, order[1:], strict=False) if found[a][1].kl > found[b][1].kl]
print(plots.finding("the order of these types is that of llama.cpp's list", not swapped, counted=True))
title = plots.finding(f"From 8 bits to 2, KL grows {ours[-1] / ours[0]:,.0f} times", ours[-1] > 50 * ours[0])
plots.label(left, title, "bits per weight, of the file's tensors", "KL divergence to F16 (nats a token)")
left.set_yscale("log")
eight_billion = preset("llama-3-8b").parameters()
for i, (mix, (gib, loss)) in enumerate(PUBLISHED.items(), 1):
    at = gib * 2**33 / eight_billion
    right.plot(at, loss, color=plots.COLOURS[i % 7], marker=plots.MARKERS[i % 7], markersize=7)
    right.annotate(f" {mix}", (at, loss), fontsize=8, va="bottom")
title = plots.finding("Published for Llama-3-8B: the same fall", theirs == sorted(theirs), counted=True)
plots.label(right, title, "bits per weight, of the file", "loss of perplexity (llama.cpp)")
right.set_yscale("log")
for axes in (left, right):
    axes.set_xlim(2, 10)
plots.show(fig)

# %% [markdown]
# **The gap** between both pictures is the model and the measure. `tiny` has so few weights that its embedding, in 6.56 bits, is
# nearly a fifth of the file, so its files need more bits under the same name. Its text is easy, so its perplexity hardly moves
# where KL shows a difference already.
#
# ## TTFT and throughput by type
#
# `tiny` fits into the processor's cache, and would say nothing about memory. So here is a larger model of random weights; of
# each type the same few blocks are repeated, since what they say costs nothing. Compiled kernels if they are here. Off is F16,
# on are the block types. The ceiling of each is the bandwidth over its own bytes. Three rounds in turn; medians, and the spread.

# %% tags=["timing"]
SPEED_TYPES = ("F16", "Q8_0", "Q4_0", "Q4_K", "MXFP4", "Q2_K")
speeds = measure_types(FOLDER, SPEED_TYPES, lengths=(16, 64, 192))
machine, prompt = kept_machine(), speeds.lengths[-1]
peak = machine.peak(speeds.backend != "numpy")
print(f"{SHAPE.parameters() / 1e6:.0f} million weights on {speeds.backend}; "
      f"{machine.read_bytes_per_s / 1e9:.1f} GB/s, at most {peak / 1e9:.0f} GFLOP/s")  # fmt: skip
for type in SPEED_TYPES:
    pace, most = speeds.pace(type), speeds.most[type]
    print(f"{type:6}{speeds.bits[type]:7.3f} bits{speeds.file_bytes[type] / 1e6:6.0f} MB{pace:8.1f} tokens/s, "
          f"{pace / most:4.0%} of {most:6.1f}; TTFT of {prompt} tokens {1e3 * speeds.wait(type):6.0f} ms")  # fmt: skip

# %% tags=["timing", "drawing"]
fig, (left, right) = plots.figure(2)
longer = speeds.wait("Q2_K") / speeds.wait("Q8_0")
faster, two_bits_faster = (speeds.pace(a) / speeds.pace(b) for a, b in (("Q4_K", "F16"), ("Q2_K", "Q8_0")))
fewer = speeds.bits["Q8_0"] / speeds.bits["Q2_K"]
title = plots.finding(f"{fewer:.1f} times fewer bits than Q8_0, {longer:.2f} times its TTFT", longer > 2 / fewer)
ttft_panel(left, speeds, ("F16", "Q8_0", "Q4_K", "Q2_K"), title)
throughput_panel(right, speeds, plots.finding(f"Decode in Q4_K is {faster:.1f} times as fast as in F16", faster > 1.2))
plots.show(fig)
shares = {type: speeds.pace(type) / speeds.most[type] for type in SPEED_TYPES}
for name, value in {
    "prompt": prompt, "ttft_ratio": f"{longer:.2f}", "q2_pace": f"{two_bits_faster:.1f}", "q4_pace": f"{faster:.1f}",
    "f16_share": f"{shares['F16']:.0%}", "q2_share": f"{shares['Q2_K']:.0%}",
}.items():  # fmt: skip
    quote(name, value)

# %% [markdown]
# **The gap** to the ceiling widens with fewer bits: there is less to read, and unpacking, attention and Python stay what they
# were. Types of equal size differ in what unpacking takes. In prefill a weight is unpacked once and used for many tokens: from
# Q8_0 to Q2_K there is nothing to gain. (F16 has another kernel, which multiplies floats.)
#
# ## Cold and warm, one process and two
#
# The Q4_0 file from above, loaded in processes of their own: mapped and used where it lies, or read into memory first. Cold: the
# file is not in the page cache. Then two processes at once, and what each has to account for: its own pages, and its share of
# those that belong to the file.

# %% tags=["timing"]
result = loading.run(FOLDER / "random-Q4_0.gguf", ways=("mapped", "read"), rounds=2)
print(loading.table(result))
ways, size = result["ways"], result["file_bytes"]

# %% tags=["timing", "drawing"]
fig, (left, right) = plots.figure(2)
names = [f"{way},\n{cache}" for way in ways for cache in loading.CACHES]
opened = [1e3 * ways[way][cache]["load_s"] for way in ways for cache in loading.CACHES]
answered = [1e3 * ways[way][cache]["ttft_s"] for way in ways for cache in loading.CACHES]
disk = [ways[way][cache]["disk_bytes"] / 1e6 for way in ways for cache in loading.CACHES]
left.bar(names, opened, color=plots.COLOURS[1], hatch="//", edgecolor="white", label="until it is loaded")
rest = [b - a for a, b in zip(opened, answered, strict=True)]
left.bar(names, rest, bottom=opened, color=plots.COLOURS[0], edgecolor="white", label="until the first token")
for i, (top, read) in enumerate(zip(answered, disk, strict=True)):
    left.annotate(f"{read:.0f} MB\nfrom disk", (i, top), ha="center", va="bottom", fontsize=8)
cold, warm = ways["mapped"]["cold"], ways["mapped"]["warm"]
title = f"Cold, the first token reads {cold['disk_bytes'] / size:.0%} of the file; warm, {warm['disk_bytes'] / size:.0%}"
plots.label(left, plots.finding(title, cold["disk_bytes"] > 0.9 * size > 20 * warm["disk_bytes"]), "", "TTFT (ms)")
plots.legend(left)
groups = [f"{way},\n{count}" for way in ways for count in ("one", "two")]
sets = [found for way in ways for found in ([ways[way]["warm"]], ways[way]["two"])]
own, pss = ([sum(one[key] for one in each) / 1e6 for each in sets] for key in ("own_bytes", "file_pss_bytes"))
right.bar(groups, pss, color=plots.COLOURS[2], hatch="..", edgecolor="white", label="pages of the file, each counted once")
right.bar(groups, own, bottom=pss, color=plots.COLOURS[3], edgecolor="white", label="pages of a process alone")
right.axhline(size / 1e6, **DASHED, label=f"the file: {size / 1e6:.0f} MB")
shared, copied = ((own[i + 1] + pss[i + 1]) / (own[i] + pss[i]) for i in (0, 2))
title = f"Mapped, two take {shared:.2f} times the memory of one; read, {copied:.2f}"
plots.label(right, plots.finding(title, shared < 1.5 < copied), "", "memory (MB)")
plots.legend(right)
plots.show(fig)
quote("shared", f"{shared:.2f}")
quote("copied", f"{copied:.2f}")
quote("cold_ms", f"{1e3 * cold['ttft_s']:.0f}")
quote("warm_ms", f"{1e3 * warm['ttft_s']:.0f}")
quote("open_ms", f"{1e3 * warm['load_s']:.0f}")
tiny.close(), q4_0.close()
home.cleanup()

# %% [markdown]
# **The gap** between cold and warm is the disk; it grows with the file, and on a slow disk it is nearly all of TTFT. What is
# above the dashed line is what a process computes in: a decoded matrix, a cache, logits.
#
# ## Try it
#
# Which model fits your machine, and how fast can it be? Predict, then move. (Needs `ipywidgets`.)

# %% tags=["skip-execution"]
from ipywidgets import interact

from minillm.model.presets import PRESETS


@interact(name=list(PRESETS), type=list(BLOCK_TYPES), gigabytes_per_s=(10, 1000, 10), disk_gigabytes_per_s=(0.1, 7, 0.1))
def fits(name="llama-3-8b", type="Q4_K", gigabytes_per_s=50, disk_gigabytes_per_s=2.0):
    config, bits = preset(name), BLOCK_TYPES[type].bits_per_weight
    print(f"{config.weight_bytes(bits) / 1e9:.1f} GB at {bits:.4g} bits a weight")
    print(f"at most {1e9 * gigabytes_per_s / config.decode_bytes(0, 1, bits):,.1f} tokens/s; ", end="")
    print(f"a cold start reads for {config.weight_bytes(bits) / 1e9 / disk_gigabytes_per_s:.1f} s")
