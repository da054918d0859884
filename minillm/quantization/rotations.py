"""Rotations: the same model along other axes, in which no weight and no activation sticks out.

A group that has one large weight has a coarse grid for all. Multiply by an orthogonal R: each new weight is a sum of all old ones
with mixed signs, so a large one is spread evenly, a row looks like draws from a normal distribution, and a grid fits it well. As
R Rᵀ = I the product is the same, x Wᵀ = (x R)(W R)ᵀ, and x R comes for free where R can be folded into the weights that make x
(calibration/rotating.py).

    R = diag(±1) · H/√d           H: Hadamard's matrix, ±1 in all places, d a power of two      H(2d) = [H H; H -H]
    R = diag(±1) · (H/√2^k ⊗ C)   d = 2^k · odd, as 576 = 64 · 9 or 1536 = 512 · 3

C is Hartley's matrix (cos + sin) / √odd, the real cousin of Fourier's: orthogonal for every size, and nearly as flat as H: no
entry is above √2 times the root mean square. Random signs are for rows that look like a row of H, which would become one spike.

QuaRot: Ashkboos et al. 2024, arXiv:2404.00456; the idea: Chee et al. 2023, arXiv:2307.13304. One vector rotated fast:
quantization/hadamard.py.
"""

import numpy as np

from minillm.errors import MiniLLMError


def rotation(d: int, seed: int) -> np.ndarray:  # -> (d, d) float64, orthogonal
    """Make the random rotation of d components; the seed draws the signs."""
    if d < 1:
        raise MiniLLMError(f"a rotation turns at least 1 component, found {d:,}.")
    power = d & -d  # the largest power of two that divides d
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], d)
    return signs[:, None] * np.kron(hadamard(power), hartley(d // power))


def hadamard(d: int) -> np.ndarray:  # -> (d, d) float64: entries ±1/√d, symmetric, its own inverse
    """Build the matrix by doubling (Sylvester). d must be a power of two."""
    if d < 1 or d & (d - 1):
        raise MiniLLMError(f"Sylvester's Hadamard matrices have a power of two of rows, found {d:,}.")
    h = np.ones((1, 1))
    while len(h) < d:
        h = np.block([[h, h], [h, -h]])
    return h / np.sqrt(d)


def hartley(d: int) -> np.ndarray:  # -> (d, d) float64: entries of at most √(2/d), symmetric, its own inverse
    """Build Hartley's matrix, cos(2πjk/d) + sin(2πjk/d) over √d: orthogonal for any d."""
    angle = 2 * np.pi / d * (np.outer(np.arange(d), np.arange(d)) % d)
    return (np.cos(angle) + np.sin(angle)) / np.sqrt(d)


def kurtosis(x: np.ndarray) -> float:
    """Compute the mean fourth power over the squared variance: 3 for a normal distribution, large where few values stick out.

    NaN for what has no variance.
    """
    x = np.asarray(x, np.float64)
    x = x - x.mean()
    variance = np.mean(x**2)
    return float(np.mean(x**4) / variance**2) if variance else float("nan")


def peak(x: np.ndarray) -> float:
    """Compute the largest magnitude over the root mean square: 1 for a sign pattern, √n for n values of which one is not 0.

    NaN for zeros.
    """
    x = np.asarray(x, np.float64)
    rms = np.sqrt(np.mean(x**2))
    return float(np.abs(x).max() / rms) if rms else float("nan")
