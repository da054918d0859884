"""What a quantizer keeps of the inputs of a matrix: their Hessian, their mean size, and a sample.

A matrix W turns inputs x into W x. Rounded to Ŵ it makes an error for each of them, and all that the sum of squares needs of the
inputs is one square matrix, however long the text was:

    Σ_x ‖(W - Ŵ) x‖²  =  tr(Δ (Σ x xᵀ) Δᵀ)  =  n/2 · tr(Δ H Δᵀ)          Δ = W - Ŵ,  H = 2/n Σ x xᵀ  over n tokens

H is the Hessian: the second derivative, for each row of Ŵ, of the mean squared error. GPTQ descends along it. AWQ wants the mean
of |x| for each column, and some inputs to try its scales on. Products of a chunk are float32, their sum is float64.
"""

import numpy as np
from numpy import ndarray as Array

from minillm.errors import MiniLLMError


class Inputs:
    """Statistics of the inputs of one matrix, or of several that share them: what flowed in, chunk after chunk.

    columns: the width of an input. total: tokens that will come, so that the sample is taken evenly from all of them.
    most: the largest sample. who: the matrix's name, for messages.
    """

    def __init__(self, columns: int, total: int, most: int = 512, who: str = "a matrix") -> None:
        self.tokens, self.who = 0, who
        self.squares = np.zeros((columns, columns))  # Σ x xᵀ
        self.sizes = np.zeros(columns)  # Σ |x|
        self.every, self.kept = max(1, -(-total // most)), list[Array]()

    def add(self, x: Array) -> None:  # (tokens, columns) float32
        """Take in the inputs of a chunk. MiniLLMError where they are not finite."""
        with np.errstate(over="ignore", invalid="ignore"):
            squares, sizes = x.T @ x, np.abs(x).sum(axis=0, dtype=np.float64)
        if not np.isfinite(np.diagonal(squares)).all():
            bad = np.count_nonzero(~np.isfinite(x))
            found = f"{bad:,} of {x.size:,} NaN or infinite" if bad else f"magnitudes up to {np.abs(x).max():.3g}"
            raise MiniLLMError(f"the inputs of {self.who!r} must be finite numbers whose squares are too, found {found}: "
                               "the model's weights are damaged, or too large.")  # fmt: skip
        self.kept.append(x[-self.tokens % self.every :: self.every].copy())
        self.squares += squares
        self.sizes += sizes
        self.tokens += len(x)

    @property
    def hessian(self) -> Array:  # (columns, columns) float64
        """2/n Σ x xᵀ over all n tokens."""
        return self.squares * (2 / max(1, self.tokens))

    @property
    def mean_abs(self) -> Array:  # (columns,) float32
        """The mean of |x|, for each column."""
        return (self.sizes / max(1, self.tokens)).astype(np.float32)

    @property
    def sample(self) -> Array:  # (n, columns) float32
        """Some of the inputs, every so many tokens one; at most as many as were asked for."""
        return np.concatenate(self.kept) if self.kept else np.zeros((0, len(self.sizes)), np.float32)


def output_error(weights: Array, quantized: Array, hessian: Array) -> float:  # (rows, columns) twice, (columns, columns)
    """Compute ‖(W - Ŵ) X‖² / ‖W X‖², the share of the output's energy that rounding costs, from the Hessian of X.

    0 where W X is 0 and stays so; infinity where only W X is 0.
    """
    lost, whole = energy(weights - quantized, hessian), energy(weights, hessian)
    return lost / whole if whole > 0 else (float("inf") if lost > 0 else 0.0)


def energy(weights: Array, hessian: Array) -> float:  # (rows, columns), (columns, columns) -> mean of ‖W x‖²
    """Compute tr(W H Wᵀ) / 2, the mean squared length of the outputs. float64 throughout: differences are small."""
    weights = np.asarray(weights, np.float64)
    return max(0.0, float(np.einsum("rc,rc->", weights @ hessian, weights)) / 2)
