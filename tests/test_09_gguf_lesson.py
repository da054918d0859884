"""Lesson 09 takes `tiny` apart by hand: what stands in its drawings is what stands in the file."""

import re
from pathlib import Path

import numpy as np

from minillm.formats.blocks import BLOCK_TYPES, quantize
from minillm.formats.gguf import open_gguf
from minillm.formats.gguf_layout import sections
from minillm.model.zoo import resolve

LESSON = (Path(__file__).parents[1] / "lessons" / "09_gguf.md").read_text(encoding="utf-8")
FENCED = re.findall(r"```\n(.*?)```", LESSON, re.S)
KEYS = {"2,048 tokens": "tokens", "their types": "token_type", "1,791 merges": "merges"}
NAMES = {text: f"tokenizer.ggml.{key}" for text, key in KEYS.items()} | {"chat template": "tokenizer.chat_template"}


def test_the_drawing_of_the_file_is_that_of_tiny():
    with open_gguf(resolve("tiny")) as file:
        found = {section.name or section.kind: section for section in sections(file)}
        counts, end = (len(file.tensors), len(file.metadata)), file.nbytes
    drawn = [line for line in FENCED[0].splitlines() if re.match(r" *\d", line) and "block" not in line]
    begins = {'"GGUF"': 0, f"{counts[0]} tensors, {counts[1]} keys": 8, "metadata": 24, "the end": end}
    begins |= {text: found[name].begin for text, name in NAMES.items()}
    begins |= {name: found[name].begin for name in ("table", "token_embd.weight", "output_norm.weight", "blk.0.attn_q.weight")}
    assert len(drawn) == len(begins) and "matrices in F16" in FENCED[0]
    for line, (text, begin) in zip(drawn, sorted(begins.items(), key=lambda item: item[1]), strict=True):
        assert re.match(rf" *{begin:,}  +{re.escape(text)}", line), (line, text, begin)
        if text in KEYS:
            assert line.endswith(f" {found[NAMES[text]].nbytes / 1000:.0f} kB")
        if text.endswith(".weight"):
            assert line.endswith(f" {found[text].nbytes / 1000:,.0f} kB")


def test_the_eighteen_bytes_and_the_sums_by_hand_are_those_of_the_first_block():
    with open_gguf(resolve("tiny")) as file:
        weights = file.dequantize("blk.0.attn_q.weight")[0, :32]
        matrices = sum(t.size for t in file.tensors.values() if len(t.shape) > 1)
    block = quantize(weights, BLOCK_TYPES["Q4_0"]).tobytes()
    assert bytes.fromhex(FENCED[1]) == block and np.abs(weights).argmax() == 7
    d = float(weights[7]) / -8
    assert f"${weights[0] / d:.2f}$ steps" in LESSON and f"${weights[16] / d:.2f}$ steps" in LESSON
    assert f"{block[2]:02x}" == "a6" and f"$6 + 16 \\cdot 10 = {block[2]}$" in LESSON
    assert f"= {d * -2:.4f}$" in LESSON and f"${32 * d * d / 12 * 1e3:.2f} \\cdot 10^{{-3}}$" in LESSON
    assert f"{matrices:,} weights in matrices" in LESSON and f"{matrices * 9 // 16:,}".replace(",", "{,}") in LESSON
