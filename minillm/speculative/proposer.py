"""What proposes drafts, behind one interface: a lookup in the text, a small model, a part of the large one.

    after a step       propose(texts, most) ─▶ a Draft for each text: tokens that may follow it, perhaps none
    in the next step   the target computes them beside its own token, and verify.py keeps what it would have said
    at a text's end    forget(key)

A proposer sees texts, and may keep what it likes of each under its key. What it proposes decides how fast a text grows, never
what it says.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from minillm.model.params import SamplingParams
from minillm.model.sampling import distribution, draw

DRAWS = 1 << 20  # in the seeds of drafts; answers have small numbers there (engine/answer.py)


@dataclass(slots=True)
class Draft:
    """Guessed tokens. q: for each the distribution (vocab,) that it was drawn from; empty where they were no draws."""

    tokens: list[int] = field(default_factory=list)
    q: list[np.ndarray] = field(default_factory=list)

    def at(self, i: int) -> tuple[int | None, np.ndarray | None]:
        """Give token i and what it was drawn from; nothing after the last."""
        return (self.tokens[i] if i < len(self.tokens) else None), (self.q[i] if i < len(self.q) else None)

    def add(self, logits: np.ndarray, params: SamplingParams, rng: np.random.Generator) -> None:  # (vocab,)
        """Add a token: the likeliest where params are greedy, else one drawn as they say, with what it was drawn from."""
        if params.temperature == 0:
            self.tokens.append(int(logits.argmax()))
            return
        self.q.append(distribution(logits, params))
        self.tokens.append(draw(self.q[-1], rng))

    def cut(self, n: int) -> "Draft":
        """Keep the first n tokens."""
        return Draft(self.tokens[:n], self.q[:n])


@dataclass(slots=True)
class Text:
    """A text under way. key: its name from step to step. tokens: the prompt, then what was drawn; the last is not computed."""

    key: Hashable
    tokens: Sequence[int]
    params: SamplingParams


def draft_seed(text: Text) -> np.random.SeedSequence:
    """Make the seed of a text's drafts: an answer's own random numbers must never be those of its drafts.

    What is accepted depends on how likely a draft was; if the number that drew it decides that too, the result is no fair draw.
    """
    return np.random.SeedSequence(text.params.seed, spawn_key=(DRAWS, getattr(text.key, "index", 0)))


class Proposer(Protocol):
    """Guesses what comes next. One that has `observe` as well is told what the target computed (speculative/draft.py)."""

    def propose(self, texts: Sequence[Text], most: Sequence[int]) -> list[Draft]:
        """Draft at most so many tokens for each text."""

    def forget(self, key: Hashable) -> None:
        """Drop what is kept of a text: it has ended. Unknown keys are no error."""
