"""Validation of untrusted files: each value has the wanted type and lies in its range, or is refused by name.

JSON and GGUF metadata both give a dictionary whose values may be anything: text where a number belongs, a number of a thousand
digits, NaN, a list in a list. Code that uses such values must not find out by crashing, nor by allocating what they claim. So
nothing reads the dictionary itself; it asks `Fields` for a kind of value, and gets one, or raises the reader's own error:

    config = Fields(values, "model/config.json: ", ModelError)
    config.whole("hidden_size", low=1)      model/config.json: hidden_size: expected a whole number from 1 to …, found 'x'.

A key with null counts as absent. `unread` lists the keys that were never asked for.
"""

import contextlib
import math
import reprlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from minillm.errors import MiniLLMError

REQUIRED = object()  # no default: the key must be there
MOST = 2**31 - 1  # of a whole number where nothing else is said: shapes, ids and counts are far below

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 60


def shown(value: Any) -> str:
    """Shorten a value for a message: one line, however large or deep it is."""
    if is_whole(value) and value.bit_length() <= 64:
        return f"{value:,}"
    try:
        return " ".join(_short.repr(value)[:200].split())  # of an array, NumPy would make several lines
    except ValueError:  # a whole number of more digits than Python prints
        return f"a {type(value).__name__} too large to print"


def excerpt(found: bytes | str) -> str:
    """Shorten untrusted text to one line, as it stands, without quotes and control characters."""
    text = found[:800].decode("utf-8", "replace") if isinstance(found, bytes) else found
    text = "".join(c if c.isprintable() else " " for c in text[:400])
    return text if len(text) <= 200 else f"{text[:197]}..."


def plain(value: Any) -> Any:
    """Convert a NumPy scalar, or array without dimensions, to Python's own; anything else stays."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_finite(value: Any) -> bool:
    """Whether it is a number that float64 holds. A whole number may be beyond it."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e308


def is_unicode(text: str) -> bool:
    """Whether it can be encoded. JSON can spell half of a surrogate pair, which is no character and has no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextlib.contextmanager
def from_file(path: str | Path) -> Iterator[None]:
    """Prefix errors with the name of the file."""
    try:
        yield
    except MiniLLMError as error:
        if str(path) in str(error):
            raise
        raise type(error)(f"{path}: {error}") from None


class Fields:
    """A dictionary from a file. where: how messages begin, up to the key; error: what they are raised as.

    Every method takes a key and returns its value as the kind that the method is called after. default: for a key that is
    absent or null; without one the key must be there.
    """

    def __init__(self, values: dict[str, Any], where: str, error: type[Exception]) -> None:
        self.values, self.where, self.error = values, where, error
        self.asked: set[str] = set()

    def fail(self, key: str, wanted: str, found: Any) -> NoReturn:
        key = key if key.isprintable() and len(key) <= 100 else shown(key)
        raise self.error(f"{self.where}{key}: expected {wanted}, found {found}.")

    def checked(self, key: str, good: Callable[[Any], bool], wanted: str, default: Any = REQUIRED) -> Any:
        """Take a value for which good(value) must hold. wanted: what it must be, for the error."""
        self.asked.add(key)
        value = plain(self.values.get(key))
        if value is None:
            if default is REQUIRED:
                self.fail(key, wanted, "nothing")
            return default
        if not good(value):
            self.fail(key, wanted, shown(value))
        return value

    def whole(self, key: str, default: Any = REQUIRED, low: int = 0, high: int = MOST) -> Any:
        return self.checked(key, lambda v: is_whole(v) and low <= v <= high, f"a whole number from {low:,} to {high:,}", default)

    def number(self, key: str, default: Any = REQUIRED, low: float = -math.inf, high: float = math.inf) -> Any:
        wanted = "a finite number" if low == -math.inf else f"a number from {low:g} to {high:g}"
        value = self.checked(key, lambda v: is_finite(v) and low <= v <= high, wanted, default)
        return value if value is default else float(value)

    def flag(self, key: str, default: Any = REQUIRED) -> Any:
        """Take true or false; 1 and 0 too, as some writers store a byte."""
        value = self.checked(key, lambda v: isinstance(v, int) and v in (0, 1), "true or false", default)
        return value if value is default else bool(value)

    def text(self, key: str, default: Any = REQUIRED) -> Any:
        return self.checked(key, lambda v: isinstance(v, str) and is_unicode(v), "text", default)

    def one_of(self, key: str, choices: Sequence, default: Any = REQUIRED) -> Any:
        """Take one of some texts, or of any values that compare with them."""
        wanted = " or ".join(map(repr, choices))
        return self.checked(key, lambda v: isinstance(v, str | int | float) and any(same(v, c) for c in choices), wanted, default)

    def inner(self, key: str, default: Any = REQUIRED) -> Any:  # -> Fields
        """Take an object within this one. A message names both keys."""
        value = self.checked(key, lambda v: isinstance(v, dict), "an object", default)
        key = key if key.isprintable() and len(key) <= 100 else shown(key)
        return value if value is default and default is None else Fields(value, f"{self.where}{key}.", self.error)

    def items(self, key: str, default: Any = REQUIRED, most: int = MOST) -> list:
        """Take a list of any values, to be checked one by one."""
        wanted = "a list" if most == MOST else f"a list of at most {most:,}"
        return self.checked(key, lambda v: isinstance(v, list | tuple) and len(v) <= most, wanted, default)

    def inners(self, key: str, default: Any = REQUIRED, most: int = MOST) -> "list[Fields]":
        """Take a list of objects."""
        values = self.items(key, default, most)
        for i, value in enumerate(values):
            if not isinstance(value, dict):
                self.fail(f"{key}[{i}]", "an object", shown(value))
        return [Fields(value, f"{self.where}{key}[{i}].", self.error) for i, value in enumerate(values)]

    def texts(self, key: str, default: Any = REQUIRED) -> list[str]:
        values = self.checked(key, lambda v: isinstance(v, list | tuple), "a list of strings", default)
        if values is default:
            return values
        if set(map(type, values)) - {str}:
            i = next(i for i, value in enumerate(values) if type(value) is not str)
            self.fail(f"{key}[{i}]", "a string", shown(values[i]))
        if not is_unicode("".join(values)):
            i = next(i for i, value in enumerate(values) if not is_unicode(value))
            self.fail(f"{key}[{i}]", "Unicode text", f"a lone surrogate in {shown(values[i])}")
        return list(values)

    def numbers(self, key: str, default: Any = REQUIRED, count: int | None = None, whole: bool = False) -> Any:
        """Take a list of finite numbers, or a NumPy array of them. count: how many there must be."""
        wanted = f"an array of {'whole' if whole else 'finite'} numbers" if count is None else f"an array of {count:,} numbers"
        values = self.checked(key, lambda v: isinstance(v, list | tuple) or getattr(v, "ndim", 0) == 1, wanted, default)
        if values is default:
            return values
        if count is not None and len(values) != count:
            self.fail(key, f"{count:,} numbers", f"{len(values):,}")
        values = values.tolist() if hasattr(values, "tolist") else list(values)
        good = {int} if whole else {int, float}
        if set(map(type, values)) - good or not all(map(is_finite, values)):
            i = next(i for i, value in enumerate(values) if type(value) not in good or not is_finite(value))
            self.fail(f"{key}[{i}]", "a whole number" if whole else "a finite number", shown(values[i]))
        return values

    def unread(self) -> dict[str, Any]:
        """List the keys that were not read, except null ones."""
        return {key: value for key, value in self.values.items() if key not in self.asked and value is not None}


def same(a: Any, b: Any) -> bool:
    """Whether a and b are equal, where true is not 1."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)
