"""What an EAGLE head learns from: texts that its target told, with the vectors that it had while telling them.

    position   0      1      2    …   L - 1    L
    id         x_0    x_1    x_2       …       x_L        and f_0 … f_L, kept in float16
    input t  =  f_t and E[x_t+1]        wanted: f_t+1, for t = 0 … L - 1

The target's own text, not the corpus it was begun with: at work the head will see nothing else. Half of it greedy, half drawn
at temperature 1, for both will be asked for.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy import ndarray as Array

from minillm.layers import rms_norm, softmax
from minillm.model.config import ModelConfig
from minillm.model.transformer import Segment, Transformer
from minillm.training import eagle
from minillm.training.cross_entropy import IGNORE
from minillm.training.data import Batches


@dataclass(frozen=True, slots=True)
class GeneratedTexts:
    """Generated texts of one length: ids (texts, L + 1), features (texts, L + 1, d_model) float16, counts (texts,) of ids."""

    ids: np.ndarray
    features: np.ndarray
    counts: np.ndarray


def generate_texts(
    transformer: Transformer, beginnings: Sequence[Sequence[int]], length: int, eos_ids: Iterable[int], seed: int
) -> GeneratedTexts:
    """Let the target continue beginnings until each text has length + 1 tokens: every other one greedy, the rest sampled."""
    rng, texts, stop = np.random.default_rng(seed), [list(b[: length + 1]) for b in beginnings], length + 1
    caches = [transformer.new_cache(stop) for _ in texts]
    features: list[list[Array]] = [[] for _ in texts]
    while live := [i for i, cache in enumerate(caches) if cache.length < stop]:
        segments = [Segment(texts[i][caches[i].length : stop], caches[i].length, caches[i]) for i in live]
        x, spans = transformer.hidden(segments)
        normed = rms_norm(x, transformer.weights.norm, transformer.config.norm_eps).astype(np.float16)
        logits = np.concatenate(transformer.head(x, segments, spans))
        below = np.cumsum(softmax(logits), axis=1)
        drawn = (below <= (rng.random(len(below)) * below[:, -1])[:, None]).sum(axis=1).clip(0, logits.shape[1] - 1)
        for i, span, first_choice, draw in zip(live, spans, logits.argmax(axis=1), drawn, strict=True):
            features[i].append(normed[span])
            texts[i].append(int(draw if i % 2 else first_choice))
    ids = np.array([text[:stop] for text in texts], np.int32)
    ends = np.isin(ids, list(eos_ids))
    for row, beginning in zip(ends, beginnings, strict=True):
        row[: len(beginning)] = False  # a chat's prompt has ends of its own
    counts = np.where(ends.any(axis=1), ends.argmax(axis=1) + 1, stop)
    return GeneratedTexts(ids, np.stack([np.concatenate(f) for f in features]), counts)


class GeneratedBatches(Batches):
    """Whole texts, each once an epoch. Inputs are positions in all ids one after another, targets the positions after them;
    IGNORE where a text has ended."""

    def __init__(self, told: GeneratedTexts, batch: int, seed: int) -> None:
        texts, stop = told.ids.shape
        self.texts, self.valid = texts, (np.arange(stop) < told.counts[:, None]).reshape(-1)
        super().__init__(np.arange(texts * stop), batch, stop - 1, seed, "what the target told")

    def restore(self, state: dict[str, int]) -> None:
        self.epoch, self.next = state["epoch"], state["next"]
        bits = np.random.PCG64([self.seed, self.epoch]).random_raw(self.texts)
        self.starts = (self.length + 1) * np.argsort(bits, kind="stable")

    def draw(self) -> tuple[Array, Array]:  # -> positions, positions: (batch, length) int64
        inputs, targets = super().draw()
        return inputs, np.where(self.valid[targets], targets, IGNORE)


def objective(  # -> (parameters, inputs, targets) -> loss, gradients: for loop.fit
    config: ModelConfig, told: GeneratedTexts, table: Array, head: Array, weight: float, own: float
) -> Callable:
    """Make eagle.loss_and_gradients of batches of positions. table: the target's embedding; head: rows of its LM head.

    own: the share of positions whose feature is the head's own guess; which they are follows from the batch.
    """
    ids, features = told.ids.reshape(-1), told.features.reshape(-1, told.features.shape[-1])

    def loss_and_gradients(parameters: dict[str, Array], inputs: Array, targets: Array) -> tuple[float, dict[str, Array]]:
        known, wanted = (features[at].astype(table.dtype) for at in (inputs, inputs + 1))
        embedded = table[ids[inputs + 1]]
        if own:
            where = np.random.default_rng(inputs[:, 0]).random(inputs.shape) < own
            known = eagle.own_features(config, parameters, known, embedded, where)
        return eagle.loss_and_gradients(config, parameters, head, known, embedded, wanted, targets != IGNORE, weight)

    return loss_and_gradients
