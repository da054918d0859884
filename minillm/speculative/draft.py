"""Drafts from an EAGLE head, and the target's pass that verifies them: both keep a cache, and truncate rejected drafts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy import ndarray as Array

from minillm.model.params import SamplingParams
from minillm.model.sampling import distribution, draw
from minillm.model.transformer import Segment
from minillm.speculative.eagle import Eagle


def draft(  # -> [token], [(vocab,)]
    head: Eagle, features: Array, tokens: Sequence[int], cache: Any, temperature: float, gamma: int, rng: np.random.Generator
) -> tuple[list[int], list[np.ndarray]]:
    """Draft a chain of γ tokens, with the distribution of each.

    features: the target's, of the positions before tokens; only those are kept in the cache.
    """
    proposed: list[int] = []
    q: list[np.ndarray] = []
    if len(tokens) == 0:  # a prompt of one token: the target has seen nothing yet
        return proposed, q
    guessed = head.guess(features, tokens, cache)[-1:]
    true = cache.length
    for _ in range(gamma):
        q.append(distribution(head.logits(guessed)[0], SamplingParams(temperature=temperature)))
        proposed.append(draw(q[-1], rng))
        if len(proposed) < gamma:
            guessed = head.guess(guessed, proposed[-1:], cache)
    cache.truncate(true)
    return proposed, q


def run_target(  # -> (n, d_model) features, (n, vocab) float64 logits
    llm: Any, head: Eagle, tokens: list[int] | Array, cache: Any, logits: Any
) -> tuple[Array, np.ndarray]:
    """Run the target over tokens: its features and its logits."""
    segments = [Segment(tokens, cache.length, cache, logits)]
    x, spans = llm.transformer.hidden(segments)
    return head.features(x), llm.transformer.head(x, segments, spans)[0].astype(np.float64)
