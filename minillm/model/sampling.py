"""From logits to a token: greedy, or a draw from a distribution that the request has shaped.

Each sampling parameter is a function from logits to logits; what it masks becomes -inf. They run in the order that vLLM and
transformers use: repetition penalty, temperature, top-k, top-p, min-p, draw. Every sequence has a random generator of
its own, so its text never depends on the other sequences of the batch.

Holtzman et al. 2019, arXiv:1904.09751 (top-p). Keskar et al. 2019, arXiv:1909.05858 (repetition penalty).
Nguyen et al. 2024, arXiv:2407.01082 (min-p).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

import numpy as np

from minillm.errors import RequestError
from minillm.layers import softmax

NOT_FINITE = "the model's logits hold NaN or infinity, the largest is {}: its weights are damaged, or an activation overflowed."
WHOLE = ("max_tokens", "top_k", "logprobs", "seed")
FLAGS = ("ignore_eos", "skip_special_tokens")
RANGES = (  # name, lowest, highest, whether the lowest itself is allowed
    ("max_tokens", 1, math.inf, True),
    ("temperature", 0, math.inf, True),
    ("top_k", 0, math.inf, True),
    ("top_p", 0, 1, False),
    ("min_p", 0, 1, True),
    ("repetition_penalty", 0, math.inf, False),
    ("logprobs", 0, 100, True),
    ("seed", 0, math.inf, True),
)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the tokens of one request are sampled, and when it stops.

    temperature: 0 is greedy. top_k: 0 is off. top_p: 1 is off. min_p: 0 is off. repetition_penalty: 1 is off.
    seed: same seed, same tokens, whatever else runs; None draws a fresh one.
    stop: strings that end the output and are not part of it; stop_token_ids: tokens that do. logprobs: how many
    alternatives to report per token. ignore_eos: go on to max_tokens, for benchmarks; stop_token_ids end it all the same.
    skip_special_tokens: control tokens such as <|im_end|> make no text.
    NumPy numbers and whole floats (5.0) are taken for what they are. Errors: RequestError names the field.
    """

    max_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: Sequence[str] = ()
    logprobs: int | None = None
    ignore_eos: bool = False
    stop_token_ids: Sequence[int] = ()
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        for name, low, high, closed in RANGES:
            value = getattr(self, name)
            if value is None and name in ("logprobs", "seed"):
                continue
            number = as_float(value)
            plain = as_int(value) if name in WHOLE else number
            if plain is None and number is not None and number > low:
                raise RequestError(f"{name} must be a whole number, found {value!r}.")
            if plain is None or not low <= plain <= high or (plain == low and not closed):
                limit = f"{'at least' if closed else 'above'} {low}" + (f" and at most {high}" if high < math.inf else "")
                raise RequestError(f"{name} must be {limit}, found {value!r}.")
            object.__setattr__(self, name, plain)
        for name in FLAGS:
            if not isinstance(value := getattr(self, name), bool | np.bool_):
                raise RequestError(f"{name} must be true or false, found {value!r}.")
            object.__setattr__(self, name, bool(value))
        stops = (self.stop,) if isinstance(self.stop, str) else as_tuple("stop", self.stop or (), "text")
        if not all(isinstance(s, str) and s for s in stops):
            raise RequestError(f"stop strings must be non-empty text, found {list(stops)!r}.")
        object.__setattr__(self, "stop", stops)
        given = () if self.stop_token_ids is None else as_tuple("stop_token_ids", self.stop_token_ids, "token ids")
        ids = [as_int(i) for i in given]
        if any(i is None or i < 0 for i in ids):
            raise RequestError(f"stop_token_ids must be whole numbers of at least 0, found {list(given)!r}.")
        object.__setattr__(self, "stop_token_ids", tuple(ids))


def as_int(value: Any) -> int | None:
    """Convert an integer of any kind: 5, 5.0, NumPy's; None for True, 5.5, "5", NaN."""
    if isinstance(value, bool | np.bool_) or (isinstance(value, np.ndarray) and value.ndim):
        return None
    if isinstance(value, float | np.floating):
        return int(value) if math.isfinite(value) and value == int(value) else None
    try:
        return index(value)
    except TypeError:
        return None


def as_float(value: Any) -> float | None:
    """Convert a finite number; None for anything else."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an int beyond float64
        return None


def as_tuple(name: str, value: Any, what: str) -> tuple:
    """Convert a collection to a tuple. RequestError where it is none."""
    try:
        if not isinstance(value, bytes | str):
            return tuple(value)
    except TypeError:
        pass
    raise RequestError(f"{name} must be a list of {what}, found {value!r}.")


def penalize_repetition(logits: np.ndarray, seen: Sequence[int], penalty: float) -> np.ndarray:  # (vocab,) -> (vocab,)
    """Make tokens that were already used less likely: divide positive logits by the penalty, multiply negative ones."""
    used = np.unique(seen)
    logits = logits.copy()
    logits[used] = np.where(logits[used] > 0, logits[used] / penalty, logits[used] * penalty)
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


def distribution(logits: np.ndarray, params: SamplingParams, seen: Sequence[int] = ()) -> np.ndarray:  # (vocab,) float64
    """Compute the probabilities that a request samples from; speculative decoding needs them too. Greedy puts all on one token.

    Raises RequestError where the largest is no finite number: a broken model must not look like a talkative one.
    """
    logits = logits.astype(np.float64)
    if params.repetition_penalty != 1.0 and len(seen):
        logits = penalize_repetition(logits, seen, params.repetition_penalty)
    likeliest = most_likely(logits)
    if params.temperature == 0:
        certain = np.zeros_like(logits)
        certain[likeliest] = 1.0
        return certain
    logits = (logits - logits[likeliest]) / params.temperature  # first the maximum: a tiny temperature must not overflow
    if params.top_k:
        logits = keep_top_k(logits, params.top_k)
    if params.top_p < 1:
        logits = keep_top_p(logits, params.top_p)
    return softmax(keep_min_p(logits, params.min_p))


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


def sample(logits: np.ndarray, params: SamplingParams, rng: np.random.Generator, seen: Sequence[int] = ()) -> int:  # (vocab,)
    """Choose the next token of one sequence."""
    if params.temperature > 0:
        return draw(distribution(logits, params, seen), rng)
    if params.repetition_penalty != 1.0 and len(seen):
        logits = penalize_repetition(logits.astype(np.float64), seen, params.repetition_penalty)
    return most_likely(logits)


def log_softmax(logits: np.ndarray) -> np.ndarray:  # (..., vocab) -> (..., vocab) float64
    """Compute the log-probabilities of the model itself, before any sampling parameter."""
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
