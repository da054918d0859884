"""Run models over a text, window by window, and score what they predict: `minillm perplexity`, and every table of quality.

The mathematics, and how a text is cut, are in metrics/perplexity.py. Logits of a window of 512 tokens are 100 MB for a vocabulary
of 49,152, those of a text are more than a machine has; so ROWS positions at a time go through the head, of the original and of
each other model, are compared, and forgotten.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from minillm.errors import MiniLLMError
from minillm.llm import LLM
from minillm.metrics.perplexity import Quality, Scores, Window, cut, windows
from minillm.model.sampling import log_softmax
from minillm.model.tokenizer import Tokenizer
from minillm.model.transformer import Segment

ROWS = 64  # positions whose logits are in memory at once
CONTEXT = 512  # tokens of a window, as llama.cpp's perplexity has them


def text_ids(tokenizer: Tokenizer, text: str) -> np.ndarray:  # -> (tokens,) int64
    """Make token ids of a text; <|endoftext|> and other control tokens in it are those tokens."""
    return np.asarray(tokenizer.encode(text, special=True), np.int64)


def check_vocabularies(llm: LLM, original: LLM, text: str) -> None:
    """Refuse models whose tokens are not the same: their probabilities could not be compared. MiniLLMError."""
    ours, theirs = llm.config.vocab_size, original.config.vocab_size
    if ours != theirs:
        raise MiniLLMError(f"models are compared token by token: expected {theirs:,} tokens, the original's, found {ours:,}.")
    if llm.tokenizer.encode(text[:10_000]) != original.tokenizer.encode(text[:10_000]):
        raise MiniLLMError("models are compared token by token, but these two cut the text into different tokens.")


def score(
    llms: Sequence[LLM], ids: np.ndarray, context: int, stride: int, original: LLM | None = None,
    progress: Callable[[], Any] = lambda: None,
) -> list[Scores]:  # fmt: skip
    """Read a text's ids with some models, and with the original that they are compared with, if there is one.

    progress: called after each window. MiniLLMError as `windows` raises it.
    """
    return score_windows(llms, ((ids, window) for window in windows(len(ids), context, stride)), original, progress)


def document_windows(documents: Iterable[np.ndarray], context: int) -> list[tuple[np.ndarray, Window]]:
    """Read each document's ids from its beginning, as a model is used. What is longer than a context is several windows."""
    return [(ids, window) for ids in documents for window in cut(len(ids), context, context)]


def score_windows(
    llms: Sequence[LLM], pieces: Iterable[tuple[np.ndarray, Window]], original: LLM | None = None,
    progress: Callable[[], Any] = lambda: None,
) -> list[Scores]:  # fmt: skip
    """Score windows, each of its text's ids.

    Where a model's texts begin with a token of their own (add_bos), so does every window, in place of its first token, as in
    llama.cpp.
    """
    scores = [Scores() for _ in llms]
    for ids, window in pieces:
        base = Reading(original, ids, window) if original else None
        readings = [Reading(llm, ids, window) for llm in llms]
        for at in range(window.first, window.stop, ROWS):
            tokens = ids[at : min(at + ROWS, window.stop)]
            truth = base.logprobs(at, len(tokens)) if base else None
            for found, reading in zip(scores, readings, strict=True):
                found.add(reading.logprobs(at, len(tokens)), tokens, truth)
        progress()
    return scores


class Reading:
    """A window after the last layer: the head is applied to some positions at a time."""

    def __init__(self, llm: LLM, ids: np.ndarray, window: Window) -> None:
        read = ids[window.start : window.stop - 1].copy()  # the last token is predicted, not read
        if llm.tokenizer.add_bos and llm.tokenizer.bos_id is not None:
            read[0] = llm.tokenizer.bos_id
        self.transformer, self.window = llm.transformer, window
        cache = self.transformer.new_cache(len(read))
        self.x, _ = self.transformer.hidden([Segment(read, 0, cache, "none")])

    def logprobs(self, at: int, count: int) -> np.ndarray:  # -> (count, vocab) float64
        """Compute the log-probabilities of tokens at … at + count - 1."""
        ops, before = self.transformer.ops, at - 1 - self.window.start
        (rows,) = ops.upload([np.arange(before, before + count)])
        return log_softmax(ops.download(self.transformer.head_of(self.x, rows)))


def predictions(llm: LLM, texts: Sequence[Sequence[int]]) -> list[np.ndarray]:  # token ids of each -> [(tokens - 1, vocab)]
    """Compute the log-probabilities of every next token of some short texts, in float32."""
    return [log_softmax(probe(llm, ids[:-1])).astype(np.float32) for ids in texts]


def compare(found: Sequence[np.ndarray], original: Sequence[np.ndarray], texts: Sequence[Sequence[int]]) -> Quality:
    """Judge predictions by the text and by the original's, both as `predictions` gives them."""
    scores = Scores()
    for ours, theirs, ids in zip(found, original, texts, strict=True):
        scores.add(ours, np.asarray(ids[1:]), theirs)
    return scores.quality


def probe(llm: LLM, ids: Sequence[int] | np.ndarray) -> np.ndarray:  # LLM, ids -> (len(ids), vocab) float64
    """Compute the logits after every token."""
    segment = Segment(np.asarray(ids), 0, llm.transformer.new_cache(len(ids)), "all")
    return llm.transformer.forward([segment])[0].astype(np.float64)
