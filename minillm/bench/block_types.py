"""One model in several block types, off and on: how long a prompt takes, and how fast tokens follow, beside floor and ceiling.

A small real model fits into the processor's cache, and says nothing about memory. So here is one of a hundred million random
weights; of each type the same few blocks are repeated, since what they say costs nothing. Notebooks 07 and 09 plot it.

    floor of TTFT    prefill FLOPs / peak FLOP/s                      the same for every type
    ceiling of pace  bandwidth / bytes that a token reads             each type has its own
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from minillm import plots
from minillm.backends import WORTH_COMPILING, fitting_backend
from minillm.bench.machine import kept_machine
from minillm.bench.rounds import in_turn
from minillm.bench.steps import pace, prefill_seconds
from minillm.formats.blocks import BLOCK_TYPES, quantize
from minillm.formats.gguf_write import write_gguf
from minillm.llm import LLM
from minillm.model.config import ModelConfig
from minillm.model.load import bits_per_weight
from minillm.model.random_model import byte_metadata, random_tensor, tensor_shapes
from minillm.model.write import model_metadata

SHAPE = ModelConfig(n_layers=16, d_model=768, n_heads=12, n_kv_heads=4, d_head=64, d_ff=2560, vocab_size=512, context_length=1024,
                    tied=True, name="random weights")  # fmt: skip
PROMPT, NEW, ROUNDS = 32, 10, 3  # of a pace: tokens before it, and drawn


@dataclass
class TypeSpeeds:
    """What was measured of each type."""

    backend: str
    lengths: Sequence[int]  # of prompts, in tokens
    bits: dict[str, float]  # a weight, from the file
    file_bytes: dict[str, int]
    waits: dict[tuple[str, int], list[float]]  # (type, length of the prompt) -> TTFT of each round, seconds
    paces: dict[str, list[float]]  # tokens/s of each round, from the slowest up
    floor: list[float]  # seconds, of each length
    most: dict[str, float]  # tokens/s

    def wait(self, type: str) -> float:
        """Give the median TTFT of the longest prompt, in seconds."""
        return median(self.waits[type, self.lengths[-1]])

    def pace(self, type: str) -> float:
        """Give the median pace, in tokens/s."""
        return median(self.paces[type])


def write_repeated(path: Path, config: ModelConfig, type: str) -> None:
    """Write a model whose matrices are 32 random rows of this type, again and again. All numbers of rows are multiples of 32."""

    def tensor(size: tuple[int, ...]) -> Any:
        if len(size) == 1:
            return np.ones(size, np.float32)
        rows = quantize(random_tensor("some rows", (32, size[1]), 0), BLOCK_TYPES[type])
        return np.tile(rows, size[0] // 32), BLOCK_TYPES[type], size

    tensors = {name: tensor(size) for name, size in tensor_shapes(config).items()}
    write_gguf(path, model_metadata(config, byte_metadata(config.vocab_size)), tensors)


def measure_types(folder: Path, types: Sequence[str], lengths: Sequence[int], config: ModelConfig = SHAPE) -> TypeSpeeds:
    """Measure TTFT at each length, and the pace of one sequence, of each type in turn, on the backend that fits the model.

    folder: where the files may lie, some hundred megabytes.
    """
    backend, machine = fitting_backend(WORTH_COMPILING), kept_machine()
    files = {type: folder / f"random-{type}.gguf" for type in types}
    for type, path in files.items():
        write_repeated(path, config, type)
    models = {type: LLM(str(path), backend) for type, path in files.items()}

    def wait(case: tuple[str, int]) -> float:
        return prefill_seconds(models[case[0]].transformer, case[1])

    def speed(type: str) -> float:
        return pace(models[type], models[type].transformer, PROMPT, NEW)[0]

    for type in types:  # warms up
        wait((type, lengths[0])), speed(type)
    waits = in_turn([(type, n) for n in lengths for type in types], ROUNDS, wait)
    paces = {type: sorted(runs) for type, runs in in_turn(types, ROUNDS, speed).items()}
    bits = {type: bits_per_weight(path, config) for type, path in files.items()}
    most = {t: machine.read_bytes_per_s / config.decode_bytes(PROMPT + NEW // 2, 1, bits[t], 4) for t in types}
    floor = [config.prefill_flops(n) / machine.peak(backend != "numpy") for n in lengths]
    sizes = {type: path.stat().st_size for type, path in files.items()}
    return TypeSpeeds(backend, lengths, bits, sizes, waits, paces, floor, most)


def ttft_panel(axes: Any, speeds: TypeSpeeds, shown: Sequence[str], title: str) -> None:
    """Plot TTFT against the length of the prompt, with the spread of the rounds, over its floor."""
    lengths, waits = speeds.lengths, speeds.waits
    curves = {type: (lengths, [median(waits[type, n]) for n in lengths]) for type in shown}
    plots.ttft_plot(axes, curves, title, bound=(lengths, speeds.floor, "floor: prefill FLOPs / peak FLOP/s"))
    for type in shown:
        plots.spread(axes, lengths, [waits[type, n] for n in lengths], 1e3)


def throughput_panel(axes: Any, speeds: TypeSpeeds, title: str) -> None:
    """Plot the pace of each type, with its spread, under its own ceiling."""
    types, most = list(speeds.paces), speeds.most
    plots.bars(axes, types, [speeds.pace(type) for type in types], "")
    plots.spread_bars(axes, list(speeds.paces.values()))
    for text in axes.texts:
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})
    for i, type in enumerate(types):
        line = {"color": "black", "linestyle": "--", "linewidth": 1.2}
        axes.plot([i - 0.42, i + 0.42], [most[type]] * 2, **line, label=None if i else "ceiling: bandwidth / bytes of a token")
        plots.check_ceiling(type, speeds.paces[type], [most[type]] * len(speeds.paces[type]))
    plots.label(axes, title, "", "throughput (tokens/s)")
    plots.legend(axes)
    axes.set_ylim(0, 1.25 * max(most.values()))
    axes.tick_params(axis="x", labelsize=8)
