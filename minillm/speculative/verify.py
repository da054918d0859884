"""Verification by rejection sampling: keep drafts of a chain so that the output is distributed as the target's own text.

The draft proposes x₁ … x_γ, each drawn from its q. The target computes p at all of them in one forward. From the first on,

    accept x with probability min(1, p(x) / q(x));  at the first that is rejected draw from max(p − q, 0), and stop
    if all are kept, draw one more from the target's p after the last

Then every token has the target's distribution: q(x) min(1, p(x)/q(x)) + P(rejected) · max(p − q, 0) / Σ = p(x). With one-hot
p and q (greedy) a draft is kept exactly where it is the target's first choice. Leviathan et al. 2022, arXiv:2211.17192.
"""

from collections.abc import Sequence

import numpy as np

from minillm.model.sampling import draw


def verify(  # [(vocab,)] γ + 1 of them, [(vocab,)], [token], Generator -> [token]
    p: Sequence[np.ndarray], q: Sequence[np.ndarray], proposed: Sequence[int], rng: np.random.Generator
) -> list[int]:
    """Rejection sampling: return the accepted draft tokens, and one more from the target."""
    for i, token in enumerate(proposed):
        if rng.random() * q[i][token] >= p[i][token]:
            left = np.maximum(p[i] - q[i], 0)
            return [*proposed[:i], draw(left / left.sum(), rng)]
    return [*proposed, draw(p[-1], rng)]
