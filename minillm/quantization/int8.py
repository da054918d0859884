"""W8A8: weights and activations as int8, so that the product itself is one of whole numbers.

    x ≈ s_x · X      w ≈ s_w · W      X, W int8, -127 … 127          x wᵀ ≈ s_x · s_wᵀ · (X Wᵀ)      the sum in int32

A product of two codes takes 15 bits: a sum overflows int8 or int16 at once, and int32 after 131,071 terms at the earliest. Scales
come out of the sum only if they are constant along it: one for the whole tensor, or one for each row, which is a token of x and
an output channel of w. A scale for each column of x would stand inside the sum. But outliers live in columns: that is the
trouble, and llm_int8.py, smoothquant.py and rotations.py are three ways out of it.

    dynamic    s_x from x itself, at run time: nothing is clipped, and a maximum must be found before each product
    static     s_x from a calibration text, fixed: free, and what is larger later is clipped to ±127 steps

-128 is left out, so that the grid is symmetric (Wu et al. 2020, arXiv:2004.09602, §3.1); products take it where others use it.
The granularities: Xiao et al. 2022, arXiv:2211.10438, figure 3.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from minillm.errors import MiniLLMError, did_you_mean

TOP = 127  # the largest code
AXES = {"tensor": (0, 1), "row": (1,), "column": (0,)}  # what shares a scale
MOST = (1 << 31) // (1 << 14) - 1  # columns of -128 · -128 = 2^14 that int32 holds
EXACT = (1 << 24) // (1 << 14)  # columns whose sum float32 holds, whatever the codes


@dataclass(frozen=True, slots=True)
class Int8Matrix:
    """A matrix as codes (rows, columns) int8 and scales (rows, 1), (1, 1) or (1, columns) float32."""

    codes: np.ndarray
    scales: np.ndarray

    def dense(self) -> np.ndarray:  # -> (rows, columns) float32
        """Dequantize into a new array."""
        return self.codes * self.scales

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scales.nbytes


def quantize_int8(x: np.ndarray, per: str = "row", scales: np.ndarray | None = None) -> Int8Matrix:  # (rows, columns)
    """Quantize with scales from the matrix itself, or with given ones. MiniLLMError as int8_scales and int8_codes raise it."""
    scales = int8_scales(x, per) if scales is None else scales
    return Int8Matrix(int8_codes(x, scales), scales)


def int8_scales(x: np.ndarray, per: str = "row") -> np.ndarray:  # (rows, columns) -> (rows, 1), (1, 1) or (1, columns) float32
    """Compute the scales that give the largest magnitude of a tensor, row or column the code 127.

    Zeros, or numbers so small that the scale would underflow, give the smallest normal float32: zeros then have code 0.
    MiniLLMError for another granularity, other than two axes, NaN and infinity.
    """
    if per not in AXES:
        raise MiniLLMError(f"int8 scales are per tensor, row or column, found {per[:40]!r}; {did_you_mean(per, AXES)}")
    largest = np.abs(checked(x)).max(axis=AXES[per], keepdims=True, initial=0)
    return np.maximum(largest / np.float32(TOP), np.finfo(np.float32).tiny)


def int8_codes(x: np.ndarray, scales: np.ndarray) -> np.ndarray:  # (rows, columns), as int8_scales gives them -> int8
    """Round to the nearest step, ties to the even code; beyond ±127 steps, ±127.

    MiniLLMError for NaN and infinity, for scales of another shape, and for scales that are not finite and above 0.
    """
    x = checked(x)
    rows, columns = x.shape
    if np.shape(scales) not in {(rows, 1), (1, 1), (1, columns)}:
        raise MiniLLMError(f"int8: expected scales of shape ({rows}, 1), (1, 1) or (1, {columns}), found {np.shape(scales)}.")
    if not (np.isfinite(scales) & (np.asarray(scales) > 0)).all():
        raise MiniLLMError(f"int8: expected finite scales above 0, found {np.min(scales)}.")
    with np.errstate(over="ignore"):  # far beyond a static scale: infinite steps are clipped like others
        return np.clip(np.rint(x / scales), -TOP, TOP).astype(np.int8)


def int8_matmul(x: np.ndarray, w: np.ndarray) -> np.ndarray:  # (n, columns) int8, (rows, columns) int8 -> (n, rows) int32
    """Compute X Wᵀ exactly, for all codes from -128 to 127, in int32. MiniLLMError as check_codes raises it."""
    check_codes(x, w)
    return x.astype(np.int32) @ w.astype(np.int32).T


def int8_matmul_blas(x: np.ndarray, w: np.ndarray) -> np.ndarray:  # the same
    """Compute the same numbers with products of float32, for which NumPy has BLAS: some 50 times as fast.

    Float32 holds every whole number up to 2^24, and so the sum of 1,024 products of codes; sums of several such are int32.
    """
    check_codes(x, w)
    total = np.zeros((len(x), len(w)), np.int32)
    for at in range(0, x.shape[1], EXACT):
        part = x[:, at : at + EXACT].astype(np.float32) @ w[:, at : at + EXACT].astype(np.float32).T
        total += part.astype(np.int32)
    return total


def int8_linear(  # (n, columns), (rows, columns) -> (n, rows) float32
    x: Int8Matrix, w: Int8Matrix, matmul: Callable[[np.ndarray, np.ndarray], np.ndarray] = int8_matmul
) -> np.ndarray:
    """Multiply codes, then scale the sums: what x.dense() @ w.dense().T is, with one rounding at the end.

    x.scales: of a tensor or of tokens; w.scales: of a tensor or of output channels. MiniLLMError for scales of columns.
    """
    for who, matrix in (("x", x), ("w", w)):
        if matrix.scales.shape[1] != 1:
            raise MiniLLMError(f"int8: scales must be the same along the sum, expected {who}'s of shape (rows, 1) or (1, 1), "
                               f"found {matrix.scales.shape}: fold those of columns into what comes before.")  # fmt: skip
    sums = matmul(x.codes, w.codes)
    return (sums * x.scales.astype(np.float64) * w.scales.T).astype(np.float32)


def static_scales(  # (n, columns) each -> (1, 1) or (1, columns) float32
    batches: Iterable[np.ndarray], per: str = "tensor"
) -> np.ndarray:
    """Compute scales from a calibration text: the largest magnitude that came in any of its batches has code 127.

    MiniLLMError for no batches, for NaN, for widths that differ, and for rows: the tokens of another text are others.
    """
    if per not in ("tensor", "column"):
        raise MiniLLMError(f"static scales are per tensor or column, found {per[:40]!r}: tokens to come are not those that came.")
    largest: np.ndarray | None = None
    for x in batches:
        top = int8_scales(x, per)
        if largest is not None and top.shape != largest.shape:
            raise MiniLLMError(f"static scales: expected {largest.shape[1]:,} columns, as before, found {top.shape[1]:,}.")
        largest = top if largest is None else np.maximum(largest, top)
    if largest is None:
        raise MiniLLMError("static scales need a calibration: expected at least 1 batch of activations, found 0; "
                           "run the model on some text first, or take dynamic scales.")  # fmt: skip
    return largest


def static_errors(x: np.ndarray, scales: np.ndarray) -> tuple[float, float]:  # (n, columns), (1, 1) -> clipped, rounded
    """Split ‖x - x̂‖² / ‖x‖² into what clipping costs and what rounding costs: where the first is not 0, the scales fail.

    A value is clipped if it is beyond 127 steps. 0 and 0 for zeros. MiniLLMError as int8_codes raises it.
    """
    wrong = np.square(checked(x) - Int8Matrix(int8_codes(x, scales), scales).dense(), dtype=np.float64)
    clipped = np.abs(x) > TOP * scales
    whole = float(np.square(x, dtype=np.float64).sum())
    return (float(wrong[clipped].sum()) / whole, float(wrong[~clipped].sum()) / whole) if whole else (0.0, 0.0)


def check_codes(x: np.ndarray, w: np.ndarray) -> None:
    """Refuse what is no product of int8 matrices, or one that int32 may not hold."""
    if x.dtype != np.int8 or w.dtype != np.int8 or x.ndim != 2 or w.ndim != 2 or x.shape[1] != w.shape[1]:
        raise MiniLLMError("int8: expected two int8 matrices with as many columns each, "
                           f"found {x.dtype} {x.shape} and {w.dtype} {w.shape}.")  # fmt: skip
    if x.shape[1] > MOST:
        raise MiniLLMError(f"int8: a sum in int32 holds {MOST:,} products, found {x.shape[1]:,} columns.")


def checked(x: np.ndarray) -> np.ndarray:  # -> (rows, columns) float32
    """Refuse what is no matrix of finite numbers; it may be empty."""
    with np.errstate(over="ignore"):  # beyond float32 is infinite, and refused below
        x = np.asarray(x, np.float32)
    if x.ndim != 2:
        raise MiniLLMError(f"int8: expected a matrix of 2 axes, found shape {x.shape}.")
    if not np.isfinite(x).all():
        bad = np.count_nonzero(~np.isfinite(x))
        raise MiniLLMError(f"int8: no scale fits NaN or infinity; found {bad:,} of {x.size:,} values.")
    return x
