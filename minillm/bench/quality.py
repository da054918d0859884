"""What quantization did to a model: perplexity, KL divergence to the original, and how often the first choice changed.

Perplexity asks how well a model predicts a text, so it mixes harm with luck: some tokens gain by chance. KL divergence asks how
far its probabilities p' are from the original's p, at each position:

    KL = Σ_v p_v log(p_v / p'_v) ≥ 0          0 where both are equal, and nothing cancels

So a few thousand positions tell files apart whose perplexities do not differ yet. The text must not be that of a calibration, and
both models must have one tokenizer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minillm.bench.pair import probe
from minillm.llm import LLM
from minillm.model.sampling import log_softmax


@dataclass(frozen=True)
class Quality:
    """Over all positions of a text. kl, worst: nats, the mean and the 99th percentile; changed: share of other first choices."""

    positions: int
    perplexity: float
    kl: float
    worst: float
    changed: float


def predictions(llm: LLM, texts: Sequence[Sequence[int]]) -> list[np.ndarray]:  # token ids of each -> [(tokens - 1, vocab)]
    """Compute the log-probabilities of every next token, in float32."""
    return [log_softmax(probe(llm, ids[:-1])).astype(np.float32) for ids in texts]


def compare(found: Sequence[np.ndarray], original: Sequence[np.ndarray], texts: Sequence[Sequence[int]]) -> Quality:
    """Judge predictions by the text and by the original's, both as `predictions` gives them."""
    surprises, divergences, changes = [], [], []
    for ours, theirs, ids in zip(found, original, texts, strict=True):
        surprises.append(-ours[np.arange(len(ids) - 1), np.asarray(ids[1:])])
        divergences.append(kl_divergence(theirs, ours))
        changes.append(ours.argmax(axis=1) != theirs.argmax(axis=1))
    kl = np.concatenate(divergences)
    mean = float(np.concatenate(surprises).mean(dtype=np.float64))
    return Quality(len(kl), math.exp(mean), float(kl.mean()), float(np.quantile(kl, 0.99)), float(np.concatenate(changes).mean()))


def kl_divergence(original: np.ndarray, found: np.ndarray) -> np.ndarray:  # two (n, vocab) of log-probabilities -> (n,) nats
    """Compute Σ p log(p / p') of each row. A token that the original never says counts nothing; one that only it says, inf."""
    with np.errstate(invalid="ignore"):
        terms = np.exp(original.astype(np.float64)) * (original.astype(np.float64) - found)
    return np.where(np.isneginf(original), 0.0, terms).sum(axis=1)
