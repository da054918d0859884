"""Verification by rejection sampling: keep drafts so that the output is distributed as the target's own text.

The draft proposes x₁ … x_γ, each drawn from its q. The target computes p at all of them in one forward. From the first on,

    accept x with probability min(1, p(x) / q(x));  at the first that is rejected draw from max(p − q, 0), and stop
    if all are kept, draw one more from the target's p after the last

Then every token has the target's distribution: q(x) min(1, p(x)/q(x)) + P(rejected) · max(p − q, 0) / Σ = p(x). A draft that
was not drawn but looked up has a one-hot q: it is kept with probability p(x), and else x cannot come. With a one-hot p (greedy)
it is kept exactly where it is the target's first choice. Leviathan et al. 2022, arXiv:2211.17192; Chen et al. 2023,
arXiv:2302.01318.
"""

from collections.abc import Sequence

import numpy as np

from minillm.model.sampling import draw


def accept_or_replace(  # (vocab,), (vocab,), token -> token
    p: np.ndarray, q: np.ndarray, token: int, rng: np.random.Generator
) -> int:
    """Accept a token that was drawn from q, or draw another in its place: what comes out is distributed as p.

    It is the token itself exactly where it was accepted: where it is rejected, p(token) < q(token), so nothing of it is left.
    """
    if rng.random() * q[token] < p[token]:
        return token
    left = np.maximum(p - q, 0)
    return draw(left / left.sum(), rng)


def one_hot(token: int, vocab: int) -> np.ndarray:  # -> (vocab,)
    """Make the distribution of a draft that was no draw."""
    certain = np.zeros(vocab)
    certain[token] = 1
    return certain


def verify(  # [(vocab,)] γ + 1 of them, [(vocab,)], [token], Generator -> [token]
    p: Sequence[np.ndarray], q: Sequence[np.ndarray], proposed: Sequence[int], rng: np.random.Generator
) -> list[int]:
    """Rejection sampling: return the accepted draft tokens, and one more from the target."""
    for i, token in enumerate(proposed):
        if (found := accept_or_replace(p[i], q[i], token, rng)) != token:
            return [*proposed[:i], found]
    return [*proposed, draw(p[-1], rng)]
