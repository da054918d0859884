"""A small model that drafts for a large one: any two with one vocabulary; or the first layers of the large one itself.

    draft model   x_0 … x_n ─▶ d_1 ─▶ d_2 ─▶ … d_γ        γ passes of the small model, one token each
    target        x_n d_1 … d_γ in one pass               little more than one token's cost, where memory is the limit

The draft keeps a cache of its own for each text. After each step it holds tokens that the target rejected: it goes back to where
the texts part, and computes what is missing. Leviathan et al. 2022, arXiv:2211.17192; Chen et al. 2023, arXiv:2302.01318; for
early exits: Zhang et al. 2023, arXiv:2309.08168 (Draft & Verify).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from minillm.errors import ModelError
from minillm.model.transformer import Segment, Transformer
from minillm.speculative.proposer import Draft, Text, draft_seed


@dataclass
class DraftText:
    """What the draft model knows of a text."""

    cache: Any
    rng: np.random.Generator
    tokens: list[int] = field(default_factory=list)  # whose keys and values are in the cache


class DraftModel:
    """A Proposer with a model. target: checked against the draft's vocabulary."""

    def __init__(self, draft: Transformer, target: Transformer) -> None:
        if (small := draft.config.vocab_size) != (large := target.config.vocab_size):
            raise ModelError(f"a draft model needs the vocabulary of its target: {large:,} tokens, found {small:,}.")
        self.model, self.texts = draft, dict[Hashable, DraftText]()

    def propose(self, texts: Sequence[Text], most: Sequence[int]) -> list[Draft]:
        """Draw drafts as the request draws: greedily, or from its distribution. All texts share each pass.

        Penalties of what was used are left out: any distribution is right as long as it is the one that was drawn from.
        """
        drafts = [Draft() for _ in texts]
        known = [self.rewound(text) for text in texts]
        context = self.model.config.context_length
        while going := [i for i, n in enumerate(most) if len(drafts[i].tokens) < min(n, context - len(texts[i].tokens))]:
            segments = [self.segment(known[i], [*texts[i].tokens, *drafts[i].tokens]) for i in going]
            logits = self.model.ops.download(self.model.logits(segments))
            for row, i in zip(logits, going, strict=True):
                drafts[i].add(row, texts[i].params, known[i].rng)
        return drafts

    def rewound(self, text: Text) -> DraftText:
        """Go back to where what is in the cache and the text part; at least its last token is computed again."""
        known = self.texts.get(text.key)
        if known is None:
            known = self.texts[text.key] = DraftText(self.model.new_cache(), np.random.default_rng(draft_seed(text)))
        same = 0
        for ours, theirs in zip(known.tokens, text.tokens[:-1], strict=False):
            if ours != theirs:
                break
            same += 1
        known.cache.truncate(same)
        del known.tokens[same:]
        return known

    def segment(self, known: DraftText, tokens: list[int]) -> Segment:
        """Make a segment of what the cache lacks."""
        new, position = tokens[len(known.tokens) :], len(known.tokens)
        known.tokens += new
        return Segment(new, position, known.cache)

    def forget(self, key: Hashable) -> None:
        """See Proposer."""
        self.texts.pop(key, None)


def first_layers(target: Transformer, layers: int) -> Transformer:
    """Make a draft of the target's own first layers, with its embedding and head: no weights of its own. ModelError for none."""
    if not 1 <= layers < target.config.n_layers:
        raise ModelError(f"an early exit is after layer 1 to {target.config.n_layers - 1} of the target, found {layers}.")
    weights = replace(target.weights, layers=list(target.weights.layers[:layers]))
    config = replace(target.config, n_layers=layers, name=f"{target.config.name}, first {layers} layers")
    return Transformer(config, weights, target.ops, target.ops.kv_dtype)
