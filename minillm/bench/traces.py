"""Traces of real servers, read as published: strangers' files, so every line is checked and a bad one is named.

    Azure      AzureLLMInferenceTrace_*.csv     TIMESTAMP, ContextTokens, GeneratedTokens        (CC-BY-4.0)
    Mooncake   conversation_trace.jsonl         timestamp, input_length, output_length, hash_ids (Apache-2.0)

Two requests of the Mooncake trace have the same beginning just as far as their hash_ids agree: one for each 512 tokens.

Azure: Patel et al., 2024, arXiv:2311.18677. Mooncake: Qin et al., 2025, FAST'25, arXiv:2407.00079.
"""

import json
from dataclasses import dataclass

from minillm.errors import TraceError

HASHED_TOKENS = 512  # tokens that one of Mooncake's hash ids stands for
MOST_TOKENS = 10_000_000  # of one request
LONGEST_LINE = 4_000_000  # characters


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a trace. pages: ids of its 512-token pages in order, empty where the trace has none."""

    prompt: int
    output: int
    pages: tuple = ()


def read_azure(path):  # -> [Request]
    """Prompt and output lengths of an Azure trace. Errors: TraceError with the line."""
    requests, places = [], None
    for number, line in lines(path):
        fields = [field.strip() for field in line.split(",")]
        if places is None:
            missing = [name for name in ("ContextTokens", "GeneratedTokens") if name not in fields]
            if missing:
                raise TraceError(f"{path}:{number}: the header needs a column {missing[0]}, found {shown(line)}.")
            places, width = [fields.index(name) for name in ("ContextTokens", "GeneratedTokens")], len(fields)
            continue
        if len(fields) != width:
            raise TraceError(f"{path}:{number}: expected {width} columns as in the header, found {len(fields)}.")
        prompt, output = (fields[place] for place in places)
        requests.append(Request(count(prompt, path, number, "prompt"), count(output, path, number, "output")))
    return whole(requests, path)


def read_mooncake(path):  # -> [Request]
    """Lengths and page ids of a Mooncake trace. Errors: TraceError with the line."""
    requests = []
    for number, line in lines(path):
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise TraceError(f"{path}:{number}: not a line of JSON ({error}): {shown(line)}.") from None
        known = fields if isinstance(fields, dict) else ()
        missing = [name for name in ("input_length", "output_length", "hash_ids") if name not in known]
        if missing:
            raise TraceError(f"{path}:{number}: expected an object with {missing[0]}, found {shown(line)}.")
        prompt, output = (count(fields[name], path, number, name) for name in ("input_length", "output_length"))
        pages, full = fields["hash_ids"], -(-prompt // HASHED_TOKENS)
        if not isinstance(pages, list) or not all(type(page) is int for page in pages):
            raise TraceError(f"{path}:{number}: hash_ids must be a list of whole numbers, found {shown(pages)}.")
        if len(pages) != full:
            held = f"{prompt:,} tokens are {full:,} pages of {HASHED_TOKENS}"
            raise TraceError(f"{path}:{number}: {held}, found {len(pages):,} hash_ids.")
        requests.append(Request(prompt, output, tuple(pages)))
    return whole(requests, path)


def lines(path):  # -> yields (number, line)
    """Lines that are not blank, with their numbers from 1."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            number = 0
            while line := file.readline(LONGEST_LINE + 1):
                number += 1
                if len(line) > LONGEST_LINE:
                    raise TraceError(f"{path}:{number}: a line has at most {LONGEST_LINE:,} characters, this one more.")
                if line.strip():
                    yield number, line
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}: not text in UTF-8 (byte {error.object[error.start]:#04x}).") from None


def count(value, path, number, name):  # -> int
    """A number of tokens, from text or JSON."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    if type(value) is not int or not 1 <= value <= MOST_TOKENS:
        raise TraceError(f"{path}:{number}: {name} must be a whole number of tokens, 1 to {MOST_TOKENS:,}, found {shown(value)}.")
    return value


def whole(requests, path):
    if not requests:
        raise TraceError(f"{path}: no requests in it.")
    return requests


def shown(value):
    """The beginning of something found, fit for one line of an error."""
    text = ascii(value.strip() if isinstance(value, str) else value) if not isinstance(value, int) else str(value)[:40]
    return text if len(text) <= 60 else f"{text[:57]}..."
