"""Untrusted JSON: bytes become a dictionary, or an error in one line.

Python's reader accepts what other readers treat differently: a key twice, of which it keeps the last. Nesting can also make it
raise what is no ValueError. Both are refused here, and so is a file larger than any of its kind: a byte of JSON takes up to
thirty in memory. NaN and numbers beyond float64 pass from a file, as some programs write them, but Fields.number refuses them
(expect.py); a request must be strict JSON (finite).
"""

import json
import math
from pathlib import Path
from typing import Any

LARGEST = 100_000_000  # bytes; the largest tokenizer.json in use has 33 million


def parse_object(data: bytes, what: object, error: type[Exception], finite: bool = False) -> dict[str, Any]:
    """Parse a JSON object from bytes of UTF-8. what: opens the message of an error. finite: no NaN, nothing beyond float64."""

    def constant(name: str) -> float:
        if finite:
            raise ValueError(f"{name} is not JSON")
        return float(name)

    def number(text: str) -> float:
        if finite and math.isinf(float(text)):
            raise ValueError(f"the number {text[:40]} is too large")
        return float(text)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(values := dict(pairs)) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ValueError(f"the key {twice[:60]!r} is there twice")
        return values

    try:
        values = json.loads(data.decode(), parse_constant=constant, parse_float=number, object_pairs_hook=unique)
    except UnicodeDecodeError as wrong:
        raise error(f"{what}: expected UTF-8, found byte 0x{data[wrong.start]:02x} at offset {wrong.start:,}.") from None
    except RecursionError:
        raise error(f"{what}: expected JSON, found one nested too deeply.") from None
    except ValueError as wrong:  # a JSONDecodeError, a key twice, or a whole number of thousands of digits
        raise error(f"{what}: is no JSON: {str(wrong)[:200]}.") from None
    if not isinstance(values, dict):
        raise error(f"{what}: must be an object, found {type(values).__name__}.")
    return values


def read_object(path: Path, error: type[Exception], largest: int = LARGEST) -> dict[str, Any] | None:  # None: no such file
    """Read a JSON object from a file."""
    try:
        if not path.exists():
            return None
        if not path.is_file():  # opening a named pipe would wait for a writer
            raise error(f"{path}: expected a file, found something that is not one.")
        if (size := path.stat().st_size) > largest:
            raise error(f"{path}: expected at most {largest:,} bytes of JSON, found {size:,}.")
        data = path.read_bytes()
    except OSError as refusal:
        raise error(f"{path}: cannot be read: {refusal.strerror or refusal}.") from None
    return parse_object(data, path, error)
