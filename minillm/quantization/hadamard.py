"""The random Hadamard rotation: outliers spread evenly over all components, and no score changes.

In a vector of small numbers with one large one, the large one decides the scale and the rounding of the sums it enters.
Look along other axes instead. With H of entries ±1/√d, each new component is a sum of all old ones, with signs:

    x   ▁▁▁▁▁█▁▁   |x| = 8, largest 8         H, d = 4:  + + + +     butterflies: two passes of a + b, a - b,
    xM  ▃▄▃▃▄▃▃▄   |xM| = 8, largest ~8/√8            ½  + - + -     log₂ d passes in all, d log d additions
                                                         + + - -     instead of the d² of a matrix product
                                                         + - - +

H is orthogonal (its rows are pairwise at right angles, and of length 1), and so is M = diag(signs) H. So nothing has to
be undone: (QM)(KM)ᵀ = Q M Mᵀ Kᵀ = Q Kᵀ. The random signs are for inputs that are like a row of H themselves (a constant,
an alternation): H alone would gather such a one into a single component. V is not rotated; it is not in a score.

Ailon and Chazelle 2009 (the fast Johnson-Lindenstrauss transform); "incoherent processing": Chee et al. 2023,
arXiv:2307.13304, Tseng et al. 2024, arXiv:2402.04396; in FlashAttention-3: Shah et al. 2024, arXiv:2407.08608, §3.3.
"""

import numpy as np

from minillm.errors import MiniLLMError


def walsh_hadamard(x: np.ndarray) -> np.ndarray:  # (..., d) -> (..., d)
    """Compute x H for the orthogonal, symmetric Hadamard matrix H, which is its own inverse. d must be a power of two."""
    d = x.shape[-1]
    if d < 1 or d & (d - 1):
        raise MiniLLMError(f"hadamard: the fast transform needs a power of two of components, found {d}.")
    y, half = x, 1
    while half < d:
        pairs = y.reshape(*x.shape[:-1], d // (2 * half), 2, half)
        a, b = pairs[..., 0, :], pairs[..., 1, :]
        y = np.stack((a + b, a - b), axis=-2).reshape(x.shape)
        half *= 2
    return y / np.sqrt(x.dtype.type(d))


def random_signs(d: int, seed: int) -> np.ndarray:  # int, int -> (d,) float32 of ±1
    """Draw the diagonal of the rotation. Q and K must be rotated by the same."""
    return np.random.default_rng(seed).choice(np.array([-1, 1], np.float32), d)


def rotate(x: np.ndarray, signs: np.ndarray) -> np.ndarray:  # (..., d), (d,) -> (..., d)
    """Compute x M, with M = diag(signs) H."""
    return walsh_hadamard(x * signs)


def rotate_back(y: np.ndarray, signs: np.ndarray) -> np.ndarray:  # (..., d), (d,) -> (..., d)
    """Undo `rotate`: y Mᵀ. Attention never needs it."""
    return walsh_hadamard(y) * signs
