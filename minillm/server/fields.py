"""A body from an untrusted client: UTF-8, strict JSON, then field by field with types and ranges.

    bytes ─▶ parse_json ─▶ Body: every field is taken once ─▶ finish(): what is left over must mean nothing

What JSON forbids (NaN, a key twice) and what other programs cannot hold (1e999, half of a surrogate pair) is an error of status
400 that names the place. Messages quote at most a few words of what they found: the error must stay small where the request was
large.
"""

import json
from collections.abc import Callable
from typing import Any

from minillm.formats.expect import is_finite, is_whole, shown
from minillm.formats.json_file import parse_object
from minillm.model.params import MAX_BIAS
from minillm.server.wire import ApiError

MAX_STOPS, MAX_STOP_LENGTH = 4, 256  # OpenAI's number; every stop string is looked for in every token's text
MAX_IDS = 128  # stop_token_ids
MAX_BIASED = 1024  # tokens of logit_bias
ANY = object()  # a field that has no influence on an answer: any value passes


def parse_json(data: bytes) -> dict:
    """Parse the body of a request, strictly: no NaN, no number beyond float64."""
    return parse_object(data, "the body", ApiError, finite=True)


def check_text(text: str, param: str) -> str:
    """Check that text can be encoded. JSON can spell half a surrogate pair, which is no character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = f"\\u{ord(text[error.start]):04x} at character {error.start:,}"
        raise ApiError(f"{param} must be Unicode text, found the lone surrogate {found}.", param) from None
    return text


class Body:
    """The fields of a request. Each is taken once; null counts as left out."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = dict(fields)

    def take(self, name: str, default: Any = None) -> Any:
        value = self.fields.pop(name, None)
        return default if value is None else value

    def checked(self, name: str, good: Callable[[Any], bool], wanted: str, default: Any) -> Any:
        """Take a field for which good(value) must hold. wanted: what it must be, for the error."""
        value = self.take(name, default)
        if value is not default and not good(value):
            raise ApiError(f"{name} must be {wanted}, found {shown(value)}.", name)
        return value

    def whole(self, name: str, low: int, high: int, default: int | None = None) -> Any:
        wanted = f"a whole number from {low:,} to {high:,}"
        return self.checked(name, lambda v: is_whole(v) and low <= v <= high, wanted, default)

    def number(self, name: str, low: float, high: float, default: float | None) -> Any:
        value = self.checked(name, lambda v: is_finite(v) and low <= v <= high, f"a number from {low} to {high}", default)
        return None if value is None else float(value)

    def flag(self, name: str, default: bool = False) -> bool:
        return self.checked(name, lambda v: isinstance(v, bool), "true or false", default)

    def token_ids(self, name: str, vocab_size: int) -> tuple[int, ...]:
        """Take a field of token ids; more than MAX_IDS would be searched for every token."""
        wanted = f"a list of at most {MAX_IDS} token ids, whole numbers from 0 to {vocab_size - 1:,}"

        def good(value: Any) -> bool:
            ids = isinstance(value, list) and len(value) <= MAX_IDS
            return ids and all(is_whole(i) and 0 <= i < vocab_size for i in value)

        return tuple(self.checked(name, good, wanted, []))

    def bias(self, vocab_size: int) -> dict[int, float]:
        """Take logit_bias: {"token id": number}. Each entry is added anew for every token, so there is a limit."""
        found = self.checked("logit_bias", lambda v: isinstance(v, dict), "an object of token ids and numbers", {})
        if len(found) > MAX_BIASED:
            raise ApiError(f"logit_bias holds at most {MAX_BIASED} tokens, found {len(found):,}.", "logit_bias")
        for key, value in found.items():
            if not (key.isascii() and key.isdigit() and len(key) < 10 and int(key) < vocab_size):
                wanted = f"a whole number from 0 to {vocab_size - 1:,}"
                raise ApiError(f"logit_bias: a token id is {wanted}, found {shown(key)}.", "logit_bias")
            if not is_finite(value) or abs(value) > MAX_BIAS:
                raise ApiError(f"logit_bias: a bias is a number from -100 to 100, found {shown(value)}.", "logit_bias")
        return {int(key): float(value) for key, value in found.items()}

    def text(self, name: str, limit: int) -> str:
        value = self.checked(name, lambda v: isinstance(v, str) and len(v) <= limit, f"text of at most {limit} characters", "")
        return check_text(value, name)

    def stops(self) -> tuple[str, ...]:
        value = self.take("stop", [])
        stops = [value] if isinstance(value, str) else value
        if not isinstance(stops, list) or len(stops) > MAX_STOPS or not all(isinstance(s, str) for s in stops):
            raise ApiError(f"stop must be text or a list of at most {MAX_STOPS} texts, found {shown(value)}.", "stop")
        if wrong := [s for s in stops if not 0 < len(s) <= MAX_STOP_LENGTH]:
            raise ApiError(f"a stop string has 1 to {MAX_STOP_LENGTH} characters, found {len(wrong[0]):,}.", "stop")
        return tuple(check_text(s, "stop") for s in stops)

    def options(self) -> Any:
        """Take stream_options, which only a stream has: usage at the end; with vLLM's continuous_usage_stats in every chunk."""
        inner = Body(self.checked("stream_options", lambda v: isinstance(v, dict), "an object", {}))
        include, each = inner.flag("include_usage"), inner.flag("continuous_usage_stats")
        inner.finish({"include_obfuscation": (False,)}, "stream_options.")  # padding against observers: never sent
        return include, include and each

    def finish(self, neutral: dict, prefix: str = "") -> None:
        """Check what is left after all fields were taken: it must have no effect. neutral: the values that have none."""
        for name, value in self.fields.items():
            if name not in neutral:
                raise ApiError(f"unknown field {shown(prefix + name)}.", prefix + name[:64], "unknown_parameter")
            good = neutral[name]
            if good is not ANY and value is not None and not any(same(value, g) for g in good):
                only = " or ".join(json.dumps(g) for g in (*good, None))
                message = f"{name} is not supported: leave it out, or send {only}. Found {shown(value)}."
                raise ApiError(message, name, "unsupported_parameter")


def same(a: object, b: object) -> bool:
    """Whether a and b are equal, where true is not 1."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)
