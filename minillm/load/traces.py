"""Traces of real servers, read as published: untrusted files, so every line is checked and a bad one is named.

    Azure      AzureLLMInferenceTrace_*.csv     TIMESTAMP, ContextTokens, GeneratedTokens        (CC-BY-4.0)
    Mooncake   conversation_trace.jsonl         timestamp, input_length, output_length, hash_ids (Apache-2.0)
    ShareGPT   sharegpt_8k_*.csv of Sarathi     num_prefill_tokens, num_decode_tokens            (Apache-2.0)

Azure's and Mooncake's requests have arrival times, ShareGPT's are conversations without a clock. Two requests of the
Mooncake trace have the same beginning just as far as their hash_ids agree: one for each 512 tokens.

Azure: Patel et al., 2024, arXiv:2311.18677. Mooncake: Qin et al., 2025, FAST'25, arXiv:2407.00079. The lengths of
ShareGPT: Agrawal et al., 2024, arXiv:2403.02310.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from minillm.errors import TraceError
from minillm.formats.expect import shown

HASHED_TOKENS = 512  # tokens that one of Mooncake's hash ids stands for
MOST_TOKENS = 10_000_000  # of one request
LONGEST_LINE = 4_000_000  # characters
MOST_MS = 1e13  # of a timestamp: some 300 years


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One request of a trace. pages: ids of its 512-token pages in order, empty where the trace has none.

    arrival: seconds since the first request of the trace arrived; None where the trace has no clock.
    """

    prompt: int
    output: int
    pages: tuple = ()
    arrival: Any = None  # float or None


def read_azure(path: str | Path) -> list[TraceRequest]:
    """Read an Azure trace: lengths and arrival times. Errors: TraceError with the line."""
    requests = []
    for number, (prompt, output, stamp) in read_columns(path, ("ContextTokens", "GeneratedTokens", "TIMESTAMP")):
        lengths = parse_count(prompt, path, number, "prompt"), parse_count(output, path, number, "output")
        requests.append(TraceRequest(*lengths, arrival=parse_timestamp(stamp, path, number)))
    return rebase_times(check_not_empty(requests, path))


def read_sharegpt(path: str | Path) -> list[TraceRequest]:
    """Read prompt and output lengths of ShareGPT as Sarathi published them. Errors: TraceError with the line."""
    return check_not_empty(
        [
            TraceRequest(parse_count(prompt, path, number, "prompt"), parse_count(output, path, number, "output"))
            for number, (prompt, output) in read_columns(path, ("num_prefill_tokens", "num_decode_tokens"))
        ],
        path,
    )


def read_mooncake(path: str | Path) -> list[TraceRequest]:
    """Read a Mooncake trace: lengths, page ids and arrival times. Errors: TraceError with the line."""
    requests = []
    for number, line in read_lines(path):
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise TraceError(f"{path}:{number}: not a line of JSON ({error}): {shown(line)}.") from None
        known = fields if isinstance(fields, dict) else ()
        missing = [name for name in ("input_length", "output_length", "hash_ids", "timestamp") if name not in known]
        if missing:
            raise TraceError(f"{path}:{number}: expected an object with {missing[0]}, found {shown(line)}.")
        prompt, output = (parse_count(fields[name], path, number, name) for name in ("input_length", "output_length"))
        pages, full = fields["hash_ids"], -(-prompt // HASHED_TOKENS)
        if not isinstance(pages, list) or not all(type(page) is int for page in pages):
            raise TraceError(f"{path}:{number}: hash_ids must be a list of whole numbers, found {shown(pages)}.")
        if len(pages) != full:
            held = f"{prompt:,} tokens are {full:,} pages of {HASHED_TOKENS}"
            raise TraceError(f"{path}:{number}: {held}, found {len(pages):,} hash_ids.")
        stamp = fields["timestamp"]
        if isinstance(stamp, bool) or not isinstance(stamp, int | float) or not 0 <= stamp < MOST_MS:  # false for NaN too
            raise TraceError(f"{path}:{number}: timestamp must be a number of milliseconds, 0 or more, found {shown(stamp)}.")
        requests.append(TraceRequest(prompt, output, tuple(pages), stamp / 1e3))
    return rebase_times(check_not_empty(requests, path))


READERS = {"azure": read_azure, "mooncake": read_mooncake, "sharegpt": read_sharegpt}


def read_any(path: str | Path) -> list[TraceRequest]:
    """Read a trace of any of these kinds, known by its first line. Errors: TraceError."""
    _, first = next(read_lines(path), (0, ""))
    marks = {"azure": "ContextTokens", "sharegpt": "num_prefill_tokens", "mooncake": "hash_ids"}
    for kind, mark in marks.items():
        if mark in first:
            return READERS[kind](path)
    names = ", ".join(f"{kind} by {mark!r}" for kind, mark in marks.items())
    raise TraceError(f"{path}: a trace is known by its first line ({names}), found {shown(first)}.")


def read_columns(path: str | Path, names: Sequence[str]) -> Iterator[tuple[int, list[str]]]:  # -> yields (number, [field])
    """Read the named columns of a CSV file without quotes, line by line."""
    places = None
    for number, line in read_lines(path):
        fields = [field.strip() for field in line.split(",")]
        if places is None:
            missing = [name for name in names if name not in fields]
            if missing:
                raise TraceError(f"{path}:{number}: the header needs a column {missing[0]}, found {shown(line)}.")
            places, width = [fields.index(name) for name in names], len(fields)
            continue
        if len(fields) != width:
            raise TraceError(f"{path}:{number}: expected {width} columns as in the header, found {len(fields)}.")
        yield number, [fields[place] for place in places]


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:  # -> yields (number, line)
    """Read lines that are not blank, without the space around them, with their numbers from 1."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            number = 0
            while line := file.readline(LONGEST_LINE + 1):
                number += 1
                if len(line) > LONGEST_LINE:
                    raise TraceError(f"{path}:{number}: a line has at most {LONGEST_LINE:,} characters, this one more.")
                if line := line.strip():
                    yield number, line
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}: not text in UTF-8 (byte {error.object[error.start]:#04x}).") from None


def parse_count(value: Any, path: str | Path, number: int, name: str) -> int:
    """Parse a number of tokens, from text or JSON."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    if type(value) is not int or not 1 <= value <= MOST_TOKENS:
        raise TraceError(f"{path}:{number}: {name} must be a whole number of tokens, 1 to {MOST_TOKENS:,}, found {shown(value)}.")
    return value


def parse_timestamp(text: str, path: str | Path, number: int) -> float:  # -> seconds
    """Parse a date and time, like 2023-11-16 18:15:46.6805900; in UTC unless it says otherwise."""
    try:
        when = datetime.fromisoformat(text)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise TraceError(f"{path}:{number}: TIMESTAMP must be a date and time, found {shown(text)}.") from None


def rebase_times(requests: list[TraceRequest]) -> list[TraceRequest]:
    """Shift the times so that the first arrival is 0; in the order of the file, which may differ from that of the times."""
    first = min(r.arrival for r in requests)
    return [replace(r, arrival=r.arrival - first) for r in requests]


def check_not_empty(requests: list[TraceRequest], path: str | Path) -> list[TraceRequest]:
    if not requests:
        raise TraceError(f"{path}: no requests in it.")
    return requests
