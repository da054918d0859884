"""Drafts from an EAGLE head, and the target's pass that verifies them: both keep a cache, and truncate rejected drafts.

    target's step    features f of the tokens it computes    ─▶ observe
    head             (f_i-1, x_i) of what was kept            ─▶ its cache, then a chain of γ guesses, which the cache forgets
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy import ndarray as Array

from minillm.model.params import SamplingParams
from minillm.model.sampling import distribution, draw
from minillm.model.transformer import Segment
from minillm.speculative.eagle import Eagle
from minillm.speculative.proposer import Draft, Text, draft_seed


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


@dataclass
class EagleText:
    """What the head knows of a text. start: position of the first feature that it has not been told of yet."""

    cache: Any
    start: int
    features: Array  # (n, d_model)
    rng: np.random.Generator | None = None


class EagleProposer:
    """A Proposer with a head. It sees the target at work (observe), and takes one text after the other.

    A text whose beginning came from the prefix cache has features from there on only: the head begins there too.
    """

    def __init__(self, head: Eagle) -> None:
        self.head, self.texts = head, dict[Hashable, EagleText]()

    def observe(self, key: Hashable, position: int, x: Array) -> None:  # (n, d_model): of Transformer.hidden
        """Take the vectors of the tokens that a step computed, from `position` on; drafts that will be rejected among them."""
        features, known = self.head.features(x), self.texts.get(key)
        if known is None or not known.start <= position <= known.start + len(known.features):
            self.texts[key] = EagleText(self.head.new_cache(), position, features)
        else:
            known.features = np.concatenate([known.features[: position - known.start], features])

    def propose(self, texts: Sequence[Text], most: Sequence[int]) -> list[Draft]:
        """See Proposer."""
        return [self.draft(text, n) for text, n in zip(texts, most, strict=True)]

    def draft(self, text: Text, most: int) -> Draft:
        """Tell the head what was kept since the last time, and let it guess on."""
        known = self.texts.get(text.key)
        count = len(text.tokens) - 1 - known.start if known else 0  # features of tokens that are there to stay
        if known is None or not 0 < count <= len(known.features):
            return Draft()
        if known.rng is None:
            known.rng = np.random.default_rng(draft_seed(text))
        features, tokens = known.features[:count], text.tokens[known.start + 1 :]
        known.start, known.features = known.start + count, known.features[count:]
        most = min(most, self.head.config.context_length - len(text.tokens))
        proposed, q = draft(self.head, features, tokens, known.cache, text.params.temperature, max(most, 1), known.rng)
        return Draft(proposed, q if text.params.temperature > 0 else []).cut(max(most, 0))

    def forget(self, key: Hashable) -> None:
        """See Proposer."""
        self.texts.pop(key, None)
