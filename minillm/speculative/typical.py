"""Typical acceptance, a demonstration: keep what the target finds likely enough. It is faster, and it is not lossless.

    keep x where   p(x) > min(ε, δ exp(-H(p)))         H = -Σ p log p: where the target hesitates, the threshold falls

No random number and no q: a plausible draft is simply kept. So what comes out leans towards the draft:

    out(x) = q(x) [x is kept] + P(rejected) p(x)

which is p only where the draft is right already, or nothing is kept. `bias` says how far off, as the largest difference of any
event's probability. At temperature 0 the rule is equality with the first choice, and then lossless. The engine has it not: what
it says must not depend on what drafts. Cai et al. 2024, arXiv:2401.10774 (Medusa); the threshold: Hewitt et al. 2022,
arXiv:2210.15191.
"""

import numpy as np

EPSILON, DELTA = 0.3, 0.09  # Medusa's: δ is about ε²


def threshold(p: np.ndarray, epsilon: float = EPSILON, delta: float = DELTA) -> float:  # (vocab,) -> 0 … ε
    """Compute what a token's probability must exceed."""
    some = p[p > 0]
    return min(epsilon, delta * float(np.exp((some * np.log(some)).sum())))


def kept(p: np.ndarray, epsilon: float = EPSILON, delta: float = DELTA) -> np.ndarray:  # (vocab,) -> (vocab,) bool
    """Say which drafts are kept."""
    return p > threshold(p, epsilon, delta)


def typical_output(  # (vocab,), (vocab,) -> (vocab,)
    p: np.ndarray, q: np.ndarray, epsilon: float = EPSILON, delta: float = DELTA
) -> np.ndarray:
    """Compute the distribution of what comes out, where a draft from q is judged so, and one from p replaces it."""
    through = np.where(kept(p, epsilon, delta), q, 0)
    return through + (1 - through.sum()) * p


def bias(p: np.ndarray, out: np.ndarray) -> float:  # (vocab,), (vocab,) -> 0 … 1
    """Compute the total variation distance: the largest difference of any event's probability."""
    return float(np.abs(p - out).sum() / 2)
