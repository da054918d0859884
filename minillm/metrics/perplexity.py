"""How well a model predicts a text, and how far its predictions are from another model's.

    loss of a token = -log p(token | the tokens before it)        perplexity = exp(mean loss)
    KL divergence at a position = Σ_v p_v log(p_v / q_v) ≥ 0      p: the original's probabilities, q: those of the other

Perplexity mixes harm with luck, for some tokens gain by chance; KL divergence is 0 only where all probabilities are equal, and
nothing cancels. So a few thousand positions tell files apart whose perplexities do not differ yet. A text is longer than the
context, so it is read in windows, each `stride` tokens further on; every token is scored once, in the first window that has it:

    window 0   [ scored ············ )                 context 8, stride 4
    window 1           [ read ··· scored )             each token but the first few has 4 before it, or more
    window 2                  [ read ··· scored )

llama.cpp's perplexity tool takes windows that do not overlap and scores the second half of each: with a stride of half the
context every scored token has as many before it as there, and the first halves count too. Errors are those of a mean of
independent values, σ / √n, as it prints them; tokens of one text are not quite independent.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from minillm.errors import MiniLLMError


class Window(NamedTuple):
    """Tokens start … stop - 1 are read; tokens first … stop - 1 are scored, each by the logits one position before it."""

    start: int
    stop: int
    first: int


class Mean(NamedTuple):
    """A mean, and its standard error."""

    value: float
    error: float


@dataclass(frozen=True, slots=True)
class Quality:
    """What a model does on a text, and beside the original. Each error is a standard error.

    kl: nats, the mean over positions; kl_99: the 99th percentile. agreement: the share of positions with the same first choice.
    """

    tokens: int
    perplexity: float
    perplexity_error: float
    kl: float
    kl_error: float
    kl_99: float
    agreement: float
    agreement_error: float


def windows(count: int, context: int, stride: int) -> Iterator[Window]:
    """Cut so many tokens into windows, as drawn above. The first token of all has nothing before it, and is not scored.

    MiniLLMError for a stride that leaves tokens out or is 0, and for fewer tokens than one window.
    """
    if context < 2:
        raise MiniLLMError(f"a window takes 2 tokens or more, one to read and one to score, found a context of {context:,}.")
    if count < context:
        raise MiniLLMError(f"a window takes {context:,} tokens, the text has {count:,}: give more, or a smaller context.")
    if not 1 <= stride <= context:
        raise MiniLLMError(f"a stride is 1 to the context, {context:,} tokens, found {stride:,}.")
    return cut(count, context, stride)


def cut(count: int, context: int, stride: int) -> Iterator[Window]:
    """Cut as `windows` does, and take a text of less than one window as it is."""
    stop = 0
    for start in range(0, count, stride):
        first, stop = max(stop, start + 1), min(start + context, count)
        if first < stop:
            yield Window(start, stop, first)
        if stop == count:
            return


def losses(logprobs: np.ndarray, tokens: np.ndarray) -> np.ndarray:  # (n, vocab), (n,) ids -> (n,) nats
    """Compute -log p of the token that came at each position."""
    return -logprobs[np.arange(len(tokens)), tokens]


def kl_divergence(original: np.ndarray, found: np.ndarray) -> np.ndarray:  # two (n, vocab) of log-probabilities -> (n,) nats
    """Compute Σ p log(p / q) of each row. A token that the original never says counts nothing; one that only it says, inf."""
    with np.errstate(invalid="ignore"):
        terms = np.exp(original.astype(np.float64)) * (original.astype(np.float64) - found)
    return np.where(np.isneginf(original), 0.0, terms).sum(axis=1)


def mean(values: np.ndarray) -> Mean:  # (n,)
    """Estimate a mean and its standard error, σ / √n; of a single value nobody knows the error, NaN."""
    values = np.asarray(values, np.float64)
    error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Mean(float(values.mean()), error)


def perplexity(losses: np.ndarray) -> Mean:  # (n,) nats
    """Compute exp of the mean loss; its error is that of the mean, times the perplexity (the delta method)."""
    loss = mean(losses)
    value = math.exp(loss.value) if loss.value < 700 else math.inf
    return Mean(value, value * loss.error)


def perplexity_ratio(losses: np.ndarray, original: np.ndarray) -> Mean:  # two (n,) nats
    """Compute perplexity / the original's. Both met the same tokens, so the error is that of the differences."""
    return perplexity(losses - original)


@dataclass(slots=True)
class Scores:
    """What is kept of a text, position by position, so that no logits are: a loss, and beside an original KL and agreement."""

    parts: list[tuple[np.ndarray, ...]] = field(default_factory=list)

    def add(self, logprobs: np.ndarray, tokens: np.ndarray, original: np.ndarray | None = None) -> None:
        """Take the next n positions: (n, vocab) of log-probabilities, the (n,) ids that came, the original's (n, vocab)."""
        part = [losses(logprobs, tokens)]
        if original is not None:
            same = logprobs.argmax(axis=1) == original.argmax(axis=1)
            part += [kl_divergence(original, logprobs), same, losses(original, tokens)]
        self.parts.append(tuple(part))

    def column(self, which: int) -> np.ndarray:
        return np.concatenate([part[which] for part in self.parts])

    @property
    def losses(self) -> np.ndarray:  # (positions,) nats
        return self.column(0)

    @property
    def kl(self) -> np.ndarray:  # (positions,) nats
        return self.column(1)

    @property
    def agreed(self) -> np.ndarray:  # (positions,) bool
        return self.column(2)

    @property
    def original_losses(self) -> np.ndarray:  # (positions,) nats
        return self.column(3)

    @property
    def quality(self) -> Quality:
        """Sum up, beside an original."""
        kl = self.kl
        return Quality(len(kl), *perplexity(self.losses), *mean(kl), float(np.quantile(kl, 0.99)), *mean(self.agreed))
