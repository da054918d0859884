"""LLM.int8(): the few columns that hold outliers stay float, and the rest is rounded to int8 token by token.

In a large Transformer some columns of the activations are tens of times larger than the others, for nearly every token. With one
scale for a token, all other columns then share the few steps that are left. There are few such columns, so they are taken apart:

    x wᵀ = Σ over columns O of x_j w_jᵀ  +  Σ over the others of x_j w_jᵀ           O = { j : some |x_j| > 6 }
           ── float ──────────────────      ── int8, a scale for each token and for each row of w ──

The threshold is one for activations behind a norm, whose typical size is 1. O depends on the tokens at hand, so w must be there
in both forms, or be rounded when it is needed, as here. Dettmers et al. 2022, arXiv:2208.07339, equation 8; their outlier part
is float16.
"""

from collections.abc import Callable

import numpy as np

from minillm.errors import MiniLLMError
from minillm.quantization.int8 import checked, int8_linear, int8_matmul, quantize_int8

THRESHOLD = 6.0


def outlier_columns(x: np.ndarray, threshold: float = THRESHOLD) -> np.ndarray:  # (n, columns) -> (columns,) bool
    """Find the columns with a magnitude above the threshold, in at least one token. MiniLLMError for one below 0, or NaN."""
    if not threshold >= 0:
        raise MiniLLMError(f"LLM.int8(): expected a threshold of at least 0, found {threshold:g}.")
    return (np.abs(checked(x)) > threshold).any(axis=0)


def llm_int8(  # (n, columns), (rows, columns) -> (n, rows) float32
    x: np.ndarray, w: np.ndarray, threshold: float = THRESHOLD,
    matmul: Callable[[np.ndarray, np.ndarray], np.ndarray] = int8_matmul,
) -> np.ndarray:  # fmt: skip
    """Multiply x wᵀ with the outlier columns in float32, and the others in int8 with a scale for each row of both.

    Without outliers that is vector-wise int8; with a threshold of 0 it is the float product, but for columns of zeros. matmul: of
    codes. MiniLLMError for NaN, infinity, and matrices whose columns differ.
    """
    x, w = checked(x), checked(w)
    if x.shape[1] != w.shape[1]:
        raise MiniLLMError(f"LLM.int8(): expected w of {x.shape[1]:,} columns, as x has, found {w.shape[1]:,}.")
    apart = outlier_columns(x, threshold)
    large = x[:, apart] @ w[:, apart].T
    rest = int8_linear(quantize_int8(x[:, ~apart], "row"), quantize_int8(w[:, ~apart], "row"), matmul)
    return large + rest
