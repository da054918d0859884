"""Where outliers come from: how large the inputs of each matrix are, channel by channel, and which columns matter.

In a trained Transformer some channels of the residual stream are tens of times larger than the others, for every token, from an
early layer on. They decide the grid where activations are rounded. Where only weights are, they are a hint: a weight's error
counts as much as its input is large, so the columns of those channels are the ones to protect. AWQ's observation (Lin et al.
2023, arXiv:2306.00978, §3.1): keep 1% of the columns in float, and it matters a lot which.

    collect(transformer, chunks, seen := ActivationStatistics())      seen["blk.3.ffn_down.weight"].max_abs      (columns,)
    salience(weights, inputs, grid)                                   {"none": …, "random": …, "weight": …, "activation": …}

Outlier channels: Dettmers et al. 2022, arXiv:2208.07339; single huge activations: Sun et al. 2024, arXiv:2402.17762.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy import ndarray as Array

from minillm.calibration.inputs import Inputs, output_error
from minillm.errors import MiniLLMError
from minillm.quantization.affine import Grid, round_to_nearest

RULES = ("none", "random", "weight", "activation")


class Channels:
    """What is kept of the inputs of one matrix. max_abs: (columns,) float32, the largest |x| of each channel."""

    def __init__(self, columns: int) -> None:
        self.tokens = 0
        self.max_abs = np.zeros(columns, np.float32)
        self.sizes = np.zeros(columns)  # Σ |x|
        self.powers = np.zeros(4)  # Σ x, Σ x², Σ x³, Σ x⁴ over all channels

    def add(self, x: Array) -> None:  # (tokens, columns)
        wide = x.astype(np.float64)
        self.tokens += len(x)
        self.max_abs = np.maximum(self.max_abs, np.abs(x).max(axis=0, initial=0))
        self.sizes += np.abs(wide).sum(axis=0)
        square = wide * wide
        self.powers += [wide.sum(), square.sum(), (square * wide).sum(), (square * square).sum()]

    @property
    def mean_abs(self) -> Array:  # (columns,) float32
        """The mean |x| of each channel."""
        return (self.sizes / max(1, self.tokens)).astype(np.float32)

    @property
    def kurtosis(self) -> float:
        """The kurtosis of all inputs together: 3 for a normal distribution. NaN where they have no variance."""
        m, second, third, fourth = self.powers / max(1, self.tokens * len(self.sizes))
        variance = second - m**2
        central = fourth - 4 * m * third + 6 * m**2 * second - 3 * m**4
        return float(central / variance**2) if variance > 0 else float("nan")

    @property
    def peak(self) -> float:
        """The largest |x| over the root mean square of all. NaN for zeros."""
        rms = np.sqrt(self.powers[1] / max(1, self.tokens * len(self.sizes)))
        return float(self.max_abs.max() / rms) if rms else float("nan")


class ActivationStatistics(Mapping[str, Channels]):
    """A visitor for collect(): {GGUF's name of a matrix: statistics of its inputs}. Matrices that share an input share them."""

    def __init__(self) -> None:
        self.channels: dict[str, Channels] = {}
        self.last: tuple[Array, Channels] | None = None

    def __call__(self, name: str, x: Array) -> None:  # str, (tokens, columns)
        if self.last is not None and self.last[0] is x:  # keys after queries: counted already
            self.channels[name] = self.last[1]
            return
        if not np.isfinite(x).all():
            raise MiniLLMError(f"the inputs of {name!r} are not finite on this text: its weights, or the file, are damaged.")
        channels = self.channels.setdefault(name, Channels(x.shape[1]))
        channels.add(x)
        self.last = (x, channels)

    def __getitem__(self, name: str) -> Channels:
        return self.channels[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.channels)

    def __len__(self) -> int:
        return len(self.channels)


def salience(  # (rows, columns), what flows in -> {rule: share of the output's energy that is lost}
    weights: Array, inputs: Inputs, grid: Grid, share: float = 0.01, seed: int = 0
) -> dict[str, float]:
    """Round all columns but a few, chosen by one rule after another, and compare the errors ‖(W - Ŵ) X‖² / ‖W X‖².

    The rules: none is spared; some at random; those with the largest weights (by norm), or with the largest mean |x|; at least
    one column. The grid is RTN's of the whole matrix, so rules differ in what is spared, and in nothing else.
    """
    if not 0 < share <= 1:
        raise MiniLLMError(f"the share of columns to spare must be above 0 and at most 1, found {share:g}.")
    rounded, found = round_to_nearest(weights, grid).dense(), {}
    for rule in RULES:
        spared = salient(weights, inputs.mean_abs, rule, share, seed)
        found[rule] = output_error(weights, np.where(spared, weights, rounded), inputs.hessian)
    return found


def salient(  # (rows, columns), (columns,) -> (columns,) bool
    weights: Array, magnitudes: Array, rule: str, share: float, seed: int = 0
) -> Array:
    """Choose the columns to spare by one of RULES; of equals, the first."""
    columns = weights.shape[1]
    scores = {
        "random": lambda: np.random.default_rng(seed).random(columns),
        "weight": lambda: np.square(weights, dtype=np.float64).sum(axis=0),
        "activation": lambda: magnitudes,
    }
    spared = np.zeros(columns, bool)
    if rule != "none":
        spared[np.argsort(-scores[rule](), kind="stable")[: max(1, round(share * columns))]] = True
    return spared
