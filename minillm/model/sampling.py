"""From logits to a token: greedy, or a draw from a distribution that the request has shaped.

Each sampling parameter is a function from logits to logits; what it masks becomes -inf. They run in the order that vLLM and
transformers use: bias, forbidden tokens, penalties, temperature, top-k, top-p, min-p, draw. Every sequence has a random
generator of its own, so its text never depends on the other sequences of the batch. This is the reference, and written to be
read; candidates.py keeps the same tokens in a fraction of the time.

Holtzman et al. 2019, arXiv:1904.09751 (top-p). Keskar et al. 2019, arXiv:1909.05858 (repetition penalty).
Nguyen et al. 2024, arXiv:2407.01082 (min-p).
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from minillm.errors import RequestError
from minillm.layers import softmax
from minillm.model.params import SamplingParams

__all__ = ["SamplingParams", "distribution", "draw", "log_softmax", "most_likely", "sample", "shape"]

NOT_FINITE = "the model's logits hold NaN or infinity, the largest is {}: its weights are damaged, or an activation overflowed."
Seen = Sequence[int] | np.ndarray  # tokens of prompt and answer, in any order
Counts = Mapping[int, int]  # how often the answer has each of its tokens


def add_bias(logits: np.ndarray, bias: Mapping[int, float]) -> np.ndarray:  # (vocab,) -> (vocab,)
    """Add to the logits of chosen tokens: 100 all but demands one, -100 all but forbids it."""
    logits = logits.copy()
    logits[list(bias)] += list(bias.values())
    return logits


def forbid(logits: np.ndarray, tokens: Collection[int]) -> np.ndarray:  # (vocab,) -> (vocab,)
    """Mask tokens, such as those that would end an answer too early."""
    logits = logits.copy()
    logits[[token for token in tokens if token < len(logits)]] = -np.inf
    return logits


def penalize_repetition(logits: np.ndarray, seen: Seen, penalty: float) -> np.ndarray:  # (vocab,) -> (vocab,)
    """Make tokens that were already used less likely: divide positive logits by the penalty, multiply negative ones."""
    used = np.unique(seen)
    logits = logits.copy()
    logits[used] = np.where(logits[used] > 0, logits[used] / penalty, logits[used] * penalty)
    return logits


def penalize_counts(logits: np.ndarray, counts: Counts, presence: float, frequency: float) -> np.ndarray:  # (vocab,) -> (vocab,)
    """Make tokens of the answer less likely: take `presence` off the logit of each, and `frequency` for each time it occurs.

    counts: of the answer alone, unlike the repetition penalty's tokens, which are the prompt's as well. Source: OpenAI.
    """
    logits = logits.copy()
    logits[list(counts)] -= presence + frequency * np.array(list(counts.values()), np.float64)
    return logits


def keep_top_k(logits: np.ndarray, k: int) -> np.ndarray:  # (vocab,) -> (vocab,)
    """Mask all but the k largest. Ties with the k-th stay."""
    if k >= len(logits):
        return logits
    threshold = np.partition(logits, -k)[-k]
    return np.where(logits >= threshold, logits, -np.inf)


def keep_top_p(logits: np.ndarray, p: float) -> np.ndarray:  # (vocab,) -> (vocab,)
    """Forbid the tail: keep the fewest tokens, from the likeliest down, whose probabilities reach p together.

    The token that crosses p is kept, so at least one always is. Among equals the lower id comes first.
    """
    # BEGIN SOLUTION ex=01.4
    order = np.argsort(-logits, kind="stable")
    probabilities = softmax(logits[order])
    before = np.cumsum(probabilities) - probabilities  # what the likelier ones hold already
    kept = order[before < p]
    # END SOLUTION
    filtered = np.full_like(logits, -np.inf)
    filtered[kept] = logits[kept]
    return filtered


def keep_min_p(logits: np.ndarray, p: float) -> np.ndarray:  # (vocab,) -> (vocab,)
    """Mask tokens less likely than p times the likeliest one."""
    if p == 0:
        return logits
    return np.where(logits >= logits.max() + np.log(p), logits, -np.inf)


def shape(
    logits: np.ndarray, params: SamplingParams, seen: Seen = (), counts: Counts | None = None, forbidden: Collection[int] = ()
) -> np.ndarray:  # (vocab,) -> (vocab,)
    """Do what comes before the temperature: bias, forbidden tokens, penalties, in float64 and in vLLM's order.

    Where there is nothing to do, the logits come back as they are.
    """
    if not (params.changes_logits or forbidden):
        return logits
    logits = logits.astype(np.float64)
    if params.logit_bias:
        logits = add_bias(logits, params.logit_bias)
    if forbidden:
        logits = forbid(logits, forbidden)
    if params.repetition_penalty != 1.0 and len(seen):
        logits = penalize_repetition(logits, seen, params.repetition_penalty)
    if counts and (params.presence_penalty or params.frequency_penalty):
        logits = penalize_counts(logits, counts, params.presence_penalty, params.frequency_penalty)
    return logits


def keep(logits: np.ndarray, params: SamplingParams) -> np.ndarray:  # (vocab,) float64 -> (vocab,)
    """Apply temperature, top-k, top-p and min-p; the likeliest token's logit becomes 0. Errors: as `most_likely`."""
    logits = logits - logits[most_likely(logits)]  # first the maximum: a tiny temperature must not overflow
    logits = logits / params.temperature
    if params.top_k:
        logits = keep_top_k(logits, params.top_k)
    if params.top_p < 1:
        logits = keep_top_p(logits, params.top_p)
    return keep_min_p(logits, params.min_p)


def distribution(logits: np.ndarray, params: SamplingParams, seen: Seen = (), **shaped: Any) -> np.ndarray:  # (vocab,) float64
    """Compute the probabilities that a request samples from; speculative decoding needs them too. Greedy puts all on one token.

    seen, counts, forbidden: see `shape`. Raises RequestError where the largest is no finite number: a broken model must not
    look like a talkative one.
    """
    logits = shape(logits.astype(np.float64), params, seen, **shaped)
    if params.temperature > 0:
        return softmax(keep(logits, params))
    certain = np.zeros_like(logits)
    certain[most_likely(logits)] = 1.0
    return certain


def draw(probabilities: np.ndarray, rng: np.random.Generator) -> int:  # (vocab,)
    """Sample one token by inverting the cumulative distribution at a uniform number: one draw, one random number."""
    cumulative = np.cumsum(probabilities)
    u = rng.random() * cumulative[-1]
    return int(np.searchsorted(cumulative, u, side="right"))


def most_likely(logits: np.ndarray) -> int:  # (vocab,)
    """Find the greedy choice, the lowest id among equals, in one pass: argmax treats NaN as the largest, so it shows there.

    Errors: as `distribution`. A -inf forbids a token; only where all are forbidden is it the largest.
    """
    token = int(logits.argmax())
    if not math.isfinite(logits[token]):
        raise RequestError(NOT_FINITE.format(logits[token]))
    return token


def sample(
    logits: np.ndarray, params: SamplingParams, rng: np.random.Generator, seen: Seen = (), **shaped: Any
) -> int:  # (vocab,)
    """Choose the next token of one sequence. seen, counts, forbidden: see `shape`. A faster one: candidates.py."""
    if params.temperature > 0:
        return draw(distribution(logits, params, seen, **shaped), rng)
    return most_likely(shape(logits, params, seen, **shaped))


def log_softmax(logits: np.ndarray) -> np.ndarray:  # (..., vocab) -> (..., vocab) float64
    """Compute the log-probabilities of the model itself, before any sampling parameter."""
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
