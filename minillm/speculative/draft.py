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

    def kept(self, tokens: Sequence[int]) -> tuple[Array, Sequence[int]]:  # (n, d_model), (n,) ids: none where it cannot guess
        """Take the features of tokens that are there to stay, and the tokens behind them; they are not given again."""
        count = len(tokens) - 1 - self.start
        if not 0 < count <= len(self.features):
            return self.features[:0], []
        found, behind = self.features[:count], tokens[self.start + 1 :]
        self.start, self.features = self.start + count, self.features[count:]
        return found, behind


class EagleProposer:
    """A Proposer with a head. It sees the target at work (observe); all texts share each of its passes.

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
        """Tell the head what was kept since the last time, and let it guess on: one pass for that, then one for each token.

        A text that gets no drafts costs no pass: its features wait.
        """
        drafts, context = [Draft() for _ in texts], self.head.config.context_length
        limits = [min(n, context - len(text.tokens)) for n, text in zip(most, texts, strict=True)]
        asked = [(i, text) for i, text in enumerate(texts) if limits[i] > 0 and text.key in self.texts]
        told = {i: self.texts[text.key].kept(text.tokens) for i, text in asked}
        ahead = self.ahead({i: kept for i, kept in told.items() if len(kept[1])}, texts)
        true = {i: self.texts[texts[i].key].cache.length for i in ahead}
        while ahead := {i: feature for i, feature in ahead.items() if len(drafts[i].tokens) < limits[i]}:
            for i, row in zip(ahead, self.head.logits(np.stack([*ahead.values()])), strict=True):
                self.extend(drafts[i], row, texts[i])
            going = {i: feature for i, feature in ahead.items() if len(drafts[i].tokens) < limits[i]}
            ahead = self.ahead({i: (feature[None], drafts[i].tokens[-1:]) for i, feature in going.items()}, texts)
        for i, length in true.items():
            self.texts[texts[i].key].cache.truncate(length)
        return drafts

    def ahead(self, told: dict[int, tuple[Array, Sequence[int]]], texts: Sequence[Text]) -> dict[int, Array]:
        """Run the head over features and tokens of some texts, by number. -> for each, the feature that it guesses last."""
        if not told:
            return {}
        features, tokens = zip(*told.values(), strict=True)
        guessed = self.head.guess_batch(np.concatenate(features), tokens, [self.texts[texts[i].key].cache for i in told])
        return dict(zip(told, guessed[np.cumsum([len(ids) for ids in tokens]) - 1], strict=True))

    def extend(self, draft: Draft, row: np.ndarray, text: Text) -> None:  # (vocab,) logits
        """Add a token to a draft: the head knows the request's temperature, and none of its other wishes."""
        known = self.texts[text.key]
        known.rng = known.rng or np.random.default_rng(draft_seed(text))
        draft.add(row, SamplingParams(temperature=text.params.temperature), known.rng)

    def forget(self, key: Hashable) -> None:
        """See Proposer."""
        self.texts.pop(key, None)
