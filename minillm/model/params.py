"""What a request may ask of sampling: one frozen record, checked once, at the door.

Everything downstream (the Python API, the engine, the server) trusts it. Names, ranges and meanings are OpenAI's and vLLM's.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import index
from typing import Any

import numpy as np

from minillm.errors import RequestError

WHOLE = ("max_tokens", "min_tokens", "top_k", "logprobs", "prompt_logprobs", "seed")
OPTIONAL = ("logprobs", "prompt_logprobs", "seed")
FLAGS = ("ignore_eos", "skip_special_tokens")
RANGES = (  # name, lowest, highest, whether the lowest itself is allowed
    ("max_tokens", 1, math.inf, True),
    ("min_tokens", 0, math.inf, True),
    ("temperature", 0, math.inf, True),
    ("top_k", 0, math.inf, True),
    ("top_p", 0, 1, False),
    ("min_p", 0, 1, True),
    ("repetition_penalty", 0, math.inf, False),
    ("presence_penalty", -2, 2, True),
    ("frequency_penalty", -2, 2, True),
    ("logprobs", 0, 100, True),
    ("prompt_logprobs", 0, 100, True),
    ("seed", 0, math.inf, True),
)
MAX_BIAS = 100.0


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the tokens of one request are sampled, and when it stops.

    temperature: 0 is greedy. top_k: 0 is off. top_p: 1 is off. min_p: 0 is off. repetition_penalty: 1 is off.
    seed: same seed, same tokens, whatever else runs; None draws a fresh one.
    stop: strings that end the output and are not part of it; stop_token_ids: tokens that do. logprobs: how many
    alternatives to report per token. ignore_eos: go on to max_tokens, for benchmarks; stop_token_ids end it all the same.
    skip_special_tokens: control tokens such as <|im_end|> make no text.
    presence_penalty, frequency_penalty: what a token's logit loses for being in the answer at all, and for each time it is;
    0 is off. logit_bias: {token id: -100 to 100}, added to its logit. min_tokens: no token ends the answer before so many are
    there, and no stop string is looked for. prompt_logprobs: as logprobs, for each token of the prompt but the first.
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
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    min_tokens: int = 0
    prompt_logprobs: int | None = None

    def __post_init__(self) -> None:
        for name, low, high, closed in RANGES:
            value = getattr(self, name)
            if value is None and name in OPTIONAL:
                continue
            number = as_float(value)
            plain = as_int(value) if name in WHOLE else number
            if plain is None and number is not None and number > low:
                raise RequestError(f"{name} must be a whole number, found {value!r}.")
            if plain is None or not low <= plain <= high or (plain == low and not closed):
                limit = f"{'at least' if closed else 'above'} {low}" + (f" and at most {high}" if high < math.inf else "")
                raise RequestError(f"{name} must be {limit}, found {value!r}.")
            object.__setattr__(self, name, plain)
        if self.min_tokens > self.max_tokens:
            raise RequestError(f"min_tokens must be at most max_tokens = {self.max_tokens:,}, found {self.min_tokens:,}.")
        object.__setattr__(self, "logit_bias", as_bias(self.logit_bias))
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

    @property
    def changes_logits(self) -> bool:
        """Whether anything is done to the logits before temperature, filters and draw. (min_tokens is: see `sampling.shape`.)"""
        penalties = self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0
        return penalties or bool(self.logit_bias)

    def keeps_all(self, vocab: int) -> bool:
        """Whether every token of the vocabulary can be drawn: no filter is on."""
        return not 0 < self.top_k < vocab and self.top_p == 1 and self.min_p == 0

    def check_vocabulary(self, size: int) -> None:
        """Check that the model has the tokens that logit_bias names. RequestError for one that it has not."""
        if (largest := max(self.logit_bias, default=0)) >= size:
            raise RequestError(f"logit_bias: token ids must be 0 to {size - 1:,}, found {largest:,}.")


def as_bias(value: Any) -> dict[int, float]:
    """Check a logit bias. None is an empty one; OpenAI's keys are text, as JSON has no others."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise RequestError(f"logit_bias must map token ids to numbers from -100 to 100, found {value!r:.60}.")
    found = {}
    for key, bias in value.items():
        token = int(key) if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 10 else as_int(key)
        number = as_float(bias)
        if token is None or token < 0:
            raise RequestError(f"logit_bias: a token id is a whole number of at least 0, found {key!r:.60}.")
        if number is None or abs(number) > MAX_BIAS:
            raise RequestError(f"logit_bias: a bias is a number from -100 to 100, found {bias!r:.60} for token {token:,}.")
        found[token] = number
    return found


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
