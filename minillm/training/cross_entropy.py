"""Cross-entropy: how surprised the model is, on average, by the token that did come next.

The model gives z, one logit for each token of the vocabulary; p = softmax(z). Where token y came next, its surprise is
-log p_y. Nothing is divided and no tiny p is ever computed: with the log-sum-exp, -log p_y = lse(z) - z_y.

    L = 1/n Σ (lse(z) - z_y)        dz = (p - onehot(y)) / n

The gradient says it all: push down each token by the probability it was given, push up the one that came. It adds up to 0
over the vocabulary. exp(L) is the perplexity; a model that knows nothing has L = log(vocabulary).

The n targets that count are those not IGNORE: padding, or a prompt that is not to be learnt.
"""

from typing import Any

import numpy as np

from minillm.errors import MiniLLMError

IGNORE = -1
ROWS = 128  # at a time: their logits stay in fast memory while they are passed over


def cross_entropy(  # (tokens, vocab), (tokens,) -> float, (tokens, vocab) or None
    logits: np.ndarray, targets: np.ndarray, gradient: bool = True
) -> tuple[float, Any]:
    """Compute the mean of -log p(target), over the targets that count, and its gradient by the logits.

    The gradient is written over the logits: they are the largest array of a small model's step. gradient=False leaves them
    alone, and returns None for it.

    A row whose target is IGNORE adds nothing and has gradient 0. MiniLLMError where every target is IGNORE.
    """
    counted = np.count_nonzero(targets != IGNORE)
    if counted == 0:
        raise MiniLLMError(f"a loss needs at least 1 target, found {len(targets):,} and all of them {IGNORE}, to be ignored.")
    total = 0.0
    for start in range(0, len(targets), ROWS):
        z, y = logits[start : start + ROWS], targets[start : start + ROWS]
        rows = np.flatnonzero(y != IGNORE)
        top, picked = z.max(axis=1, keepdims=True), z[rows, y[rows]]
        p = np.exp(np.subtract(z, top, out=z if gradient else None), out=z if gradient else None)
        sums = p.sum(axis=1, keepdims=True)
        lse = (np.log(sums) + top)[rows, 0]
        total += float(np.sum(lse - picked, dtype=np.float64))
        if gradient:  # p is exp(z - top), not yet a probability, and lies where z lay: it becomes dz there
            # BEGIN SOLUTION ex=16.1
            share = (y != IGNORE)[:, None] / counted  # of each row: 1/n, or nothing
            p *= (share / sums).astype(p.dtype)
            p[rows, y[rows]] -= p.dtype.type(1 / counted)
            # END SOLUTION
    return total / counted, logits if gradient else None
