"""Log-probabilities of tokens under the model alone, before any sampling parameter: of drawn ones, and of the prompt's own.

The logits at a position predict the token after it. So the first token of a prompt has no log-probability, and those of the
others are in the logits of every position but the last. They are a vocabulary for each token of the prompt (192 kB of float32
for 49,152 tokens): ROWS positions at a time go through the head, and only numbers are kept.

    log p(token) = logit(token) - max - log Σ exp(logit - max)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minillm.cache.protocol import Array
from minillm.errors import RequestError
from minillm.model.candidates import kth_floor
from minillm.model.sampling import NOT_FINITE
from minillm.model.transformer import Transformer

ROWS = 64  # positions whose logits are in memory at once


@dataclass(slots=True)
class TokenLogprob:
    """Log-probability of a token under the model alone, and of its best alternatives, by token id.

    rank: 1 for the likeliest token of all, 2 for the next; equals share a rank.
    """

    token_id: int
    logprob: float
    top: dict[int, float]
    rank: int = 0


def token_logprob(logits: np.ndarray, token: int, count: int) -> TokenLogprob:  # (vocab,)
    """Compute the log-probabilities of a token and of the `count` likeliest. RequestError for logits that are no numbers."""
    top = float(logits.max())
    shifted = np.subtract(logits, top, dtype=np.float64)
    total = float(np.log(np.exp(shifted).sum()))
    if not np.isfinite(total):
        raise RequestError(NOT_FINITE.format(top))
    best = {int(i): float(shifted[i]) - total for i in top_indices(logits, count)}
    return TokenLogprob(token, float(shifted[token]) - total, best, 1 + int(np.count_nonzero(logits > logits[token])))


def top_indices(values: np.ndarray, count: int) -> np.ndarray:  # (n,), int -> (count,) indices
    """Find the largest values, in descending order, the lower index first among equals. Only those are sorted."""
    count = min(count, len(values))
    if count == 0:
        return np.empty(0, np.int64)
    found = np.flatnonzero(values >= kth_floor(values, count))
    return found[np.argsort(-values[found], kind="stable")][:count]


def prompt_logprobs(
    transformer: Transformer, x: Array, rows: Sequence[int], tokens: Sequence[int], count: int
) -> list[TokenLogprob]:  # (positions of a step, d_model)
    """Compute what the positions in these rows say of the tokens that follow them. x: as Transformer.hidden returns it."""
    found: list[TokenLogprob] = []
    for start in range(0, len(rows), ROWS):
        (some,) = transformer.ops.upload([np.array(rows[start : start + ROWS], np.int64)])
        logits = transformer.ops.download(transformer.head_of(x, some))
        found += [token_logprob(row, token, count) for row, token in zip(logits, tokens[start:], strict=False)]
    return found
