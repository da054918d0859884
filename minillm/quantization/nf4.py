"""NF4: four bits whose sixteen levels lie where the weights of a network lie.

Trained weights are close to a normal distribution around 0. Sixteen evenly spaced levels waste the outer ones on the few
large weights; levels at evenly spaced *quantiles* of that distribution lie where the weights are. A block of 64 weights shares
one scale, its largest magnitude, so that the levels need only cover -1 to 1. (After that scaling the levels are not used alike:
the inner ones take up to 9% of the weights, the outer ones under 2%. Other codebooks of four bits have a smaller error.)

    w ≈ absmax · level[code]          -1   -.70  -.53 -.39 -.28 -.18 -.09  0  .08 .16 .25 .34 .44  .56  .72    1
                                       |     |     |    |   |   |   |   |  |  |   |   |   |    |    |     |

One float32 for 64 weights costs half a bit a weight. Double quantization packs the scales too: 256 of them, less the mean
of all, share a float32 of their own, and take eight bits each:

    bits a weight = 4 + 8/64 + 32/(64 · 256) = 4.127           (and 32 bits a matrix for the mean)

Dettmers et al. 2023, arXiv:2305.14314 (QLoRA). The paper's eight bits are a float, here they are an integer: scales less
their mean lie close together, and even steps serve them better.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from minillm.quantization.affine import checked

BLOCK = 64  # weights that share a scale
GROUP = 256  # scales that share a scale


def nf4_levels() -> np.ndarray:  # -> (16,) float32, rising from -1 to 1
    """Compute the levels: quantiles of the normal distribution, over the largest of them. One is exactly 0, for pruned weights.

    Evenly spaced probabilities on each side of 1/2, whose quantile is 0: seven below it, eight above. The outermost cannot be
    0 and 1, whose quantiles are infinite. Sixteen equal shares would put the last level in the middle of its share, at 1/32
    from the end; fifteen at 1/30. The paper takes the mean of both: 1 - 0.9677083, its code's `offset`.
    """
    edge = (1 / 32 + 1 / 30) / 2
    below, above = np.linspace(edge, 1 / 2, 8), np.linspace(1 / 2, 1 - edge, 9)
    quantiles = np.array([NormalDist().inv_cdf(p) for p in (*below, *above[1:])])
    return (quantiles / quantiles.max()).astype(np.float32)


@dataclass(frozen=True, slots=True)
class NF4Matrix:
    """A matrix in NF4, row by row in blocks of 64; the last block is filled up with zeros, and they are counted."""

    shape: tuple[int, int]
    codes: np.ndarray  # (blocks, 32) uint8: weights 2j and 2j + 1 of a block in the high and the low half of byte j
    scales: np.ndarray  # (blocks,) int8: absmax = mean + steps[block // 256] · scale
    steps: np.ndarray  # (groups,) float32
    mean: np.float32

    @property
    def nbytes(self) -> int:
        """Bytes of all that dense() needs."""
        return self.codes.nbytes + self.scales.nbytes + self.steps.nbytes + self.mean.nbytes

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.nbytes / (self.shape[0] * self.shape[1])

    def absmax(self) -> np.ndarray:  # -> (blocks,) float32
        """The absmax of each block. None is negative: where eight bits would make it so, 0 is nearer."""
        steps = np.repeat(self.steps, GROUP)[: len(self.scales)]
        return np.maximum(self.scales * steps + self.mean, np.float32(0))

    def dense(self) -> np.ndarray:  # -> shape, float32
        """Dequantize to float32, into a new array at each call."""
        levels, byte = nf4_levels(), np.arange(256)
        both = np.stack([levels[byte >> 4], levels[byte & 15]], axis=1)  # (256, 2): a byte is two weights
        blocks = both[self.codes].reshape(len(self.codes), BLOCK)
        blocks *= self.absmax()[:, None]
        return blocks.reshape(-1)[: self.shape[0] * self.shape[1]].reshape(self.shape)


def quantize_nf4(weights: np.ndarray) -> NF4Matrix:  # (rows, columns) -> NF4Matrix
    """Quantize each weight to the nearest level, times the largest magnitude (absmax) of its block.

    Blocks of 64 follow one another through the matrix row by row; a row may end within a block, and what the last block lacks is
    filled with zeros. A weight is divided by its block's absmax before it is compared with the levels, which lie in -1 … 1
    (nearest): so one large weight makes 63 others coarse, and no more. A block of zeros has absmax 0 and codes of level 0. Two
    codes share a byte as NF4Matrix says. MiniLLMError for other than two axes, no weights at all, NaN and infinity.
    """
    weights = checked(weights)
    # BEGIN SOLUTION ex=16.7
    blocks = np.pad(weights.reshape(-1), (0, -weights.size % BLOCK)).reshape(-1, BLOCK)
    absmax = np.abs(blocks).max(axis=1)
    codes = nearest(blocks / np.where(absmax == 0, np.float32(1), absmax)[:, None])
    pairs = codes[:, 0::2] << 4 | codes[:, 1::2]
    # END SOLUTION
    return NF4Matrix(weights.shape, pairs, *quantize_scales(absmax))


def nearest(x: np.ndarray) -> np.ndarray:  # (...) float32 in [-1, 1] -> (...) uint8
    """Find the code of the nearest level: how many midpoints between two levels lie below x."""
    levels, codes = nf4_levels(), np.zeros(x.shape, np.uint8)
    for midpoint in (levels[1:] + levels[:-1]) / 2:
        codes += x > midpoint
    return codes


def quantize_scales(  # (blocks,) float32 -> (blocks,) int8, (groups,) float32, float32
    absmax: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.float32]:
    """Double quantization: store each scale as its difference from the mean, in 127 steps up and down to the group's largest."""
    mean = np.float32(absmax.mean(dtype=np.float64))
    away = np.pad(absmax - mean, (0, -len(absmax) % GROUP)).reshape(-1, GROUP)
    steps = np.maximum(np.abs(away).max(axis=1) / np.float32(127), np.finfo(np.float32).tiny)  # 0 / tiny is 0
    scales = np.rint(away / steps[:, None]).astype(np.int8)
    return scales.reshape(-1)[: len(absmax)], steps, mean


def nf4_nbytes(shape: tuple[int, ...]) -> int:  # (rows, columns) -> bytes
    """Count the bytes of a quantized matrix of this shape, without making it."""
    blocks = -(-shape[0] * shape[1] // BLOCK)
    return blocks * BLOCK // 2 + blocks + -(-blocks // GROUP) * 4 + 4
