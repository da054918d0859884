# %% [markdown]
# # 09 · GGUF: one file, taken apart
#
# The lesson ([09_gguf.md](../lessons/09_gguf.md)) claims: a file is a header, names and aligned bytes; a block is small integers
# with a scale; searching that scale lowers the error for nothing; fewer bits cost quality, slowly and then fast; and decode
# gets faster with them, while prefill does not. We take a file apart, search one scale by hand, and measure the rest.

# %%
import tempfile
from pathlib import Path
from statistics import median

import numpy as np

import minillm
from minillm import LLM, SamplingParams, plots
from minillm.backends import WORTH_COMPILING, fitting_backend
from minillm.bench import loading
from minillm.bench.machine import kept_machine
from minillm.bench.quality import compare, predictions
from minillm.bench.rounds import in_turn
from minillm.calibration.importance import importance_matrix
from minillm.course.notebooks.figures import quote
from minillm.formats import gguf_plot
from minillm.formats.anatomy import lines, walk
from minillm.formats.blocks import BLOCK_TYPES, dequantize, quantize
from minillm.formats.gguf import open_gguf
from minillm.formats.gguf_layout import sections
from minillm.formats.gguf_write import write_gguf
from minillm.formats.mixes import MIXES
from minillm.formats.requantize import requantize
from minillm.metrics.events import EventLog, tpot
from minillm.model.config import ModelConfig
from minillm.model.generate import generate_tokens
from minillm.model.load import bits_per_weight
from minillm.model.random_model import byte_metadata, random_tensor, tensor_shapes
from minillm.model.transformer import Segment
from minillm.model.write import model_metadata
from minillm.model.zoo import resolve
from minillm.training.data import read_corpus, split
from minillm.training.prepare import END_OF_TEXT

DASHED = {"color": "black", "linestyle": "--", "linewidth": 1.2}
EXAMPLE = "blk.0.attn_q.weight"
home = tempfile.TemporaryDirectory()
FOLDER = Path(home.name)

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
megabytes, bits = q4_0.nbytes / 1e6, 8 * sum(t.nbytes for t in q4_0.tensors.values()) / sum(t.size for t in q4_0.tensors.values())
print(f"\nin Q4_0: {quote('q4_0_mb', f'{megabytes:.2f}')} MB, {bits:.2f} bits a weight\n")
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
curve = [error_of(d) for d in tried]
