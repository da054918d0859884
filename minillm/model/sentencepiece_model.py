"""tokenizer.model, SentencePiece's own file: a protobuf message with the pieces, their scores, and how text is prepared.

Protobuf is a list of fields, each a number and a value; which number means what, the reader must know. Three kinds of values are
needed: whole numbers in 7 bits a byte, lowest first, the top bit saying that more follow; 4 bytes; and a length with bytes, which
are text or a message of their own.

    | field · 8 + kind: varint | value |        kind 0: varint   1: 8 bytes   2: length, bytes   5: 4 bytes

Kinds of pieces have the numbers that GGUF took over (vocabulary.py). What would cut text otherwise than our SentencePieceBPE is
refused by name. Source: sentencepiece_model.proto; protobuf.dev/programming-guides/encoding.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minillm.errors import TokenizerError
from minillm.formats.expect import shown
from minillm.model.tokenizer.vocabulary import NORMAL

LARGEST = 100_000_000  # bytes; the largest in use have some 4 million
BPE, UNIGRAM = 2, 1  # of trainer_spec.model_type
IDS = {"unknown": (40, 0), "bos": (41, 1), "eos": (42, 2), "padding": (43, -1)}  # field of trainer_spec, and what absence means
VARINT, EIGHT, BYTES, FOUR = 0, 1, 2, 5


@dataclass
class SentencePieceFile:
    """What a tokenizer.model says. prefix: a text gets a space in front; ids are None where there is no such token."""

    tokens: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    prefix: bool = True
    ids: dict[str, int | None] = field(default_factory=dict)


def read_sentencepiece(path: Path, most: int) -> SentencePieceFile:
    """Read a file of at most so many pieces. TokenizerError for a damaged one, another algorithm, and a normalization of text."""
    try:
        if (size := path.stat().st_size) > LARGEST:
            raise TokenizerError(f"{path}: expected at most {LARGEST:,} bytes, found {size:,}.")
        data = path.read_bytes()
    except OSError as refusal:
        raise TokenizerError(f"{path}: cannot be read: {refusal.strerror or refusal}.") from None
    try:
        return from_messages(path, data, most)
    except (IndexError, ValueError, struct.error):
        raise TokenizerError(f"{path}: is no SentencePiece model: its fields do not end where the file does.") from None


def from_messages(path: Path, data: bytes, most: int) -> SentencePieceFile:
    found, trainer, normalizer = SentencePieceFile(), dict[int, Any](), dict[int, Any]()
    for number, value in fields(data):
        if number == 1:
            piece = dict(fields(value))
            if len(found.tokens) >= most:
                raise TokenizerError(f"{path}: expected at most {most:,} pieces, found more.")
            found.tokens.append(take(piece, 1, b"").decode())
            found.scores.append(take(piece, 2, 0.0))
            found.types.append(take(piece, 3, NORMAL))
        elif number in (2, 3):
            (trainer if number == 2 else normalizer).update(fields(value))
    if (kind := take(trainer, 3, UNIGRAM)) != BPE:
        name = {UNIGRAM: "Unigram", 3: "Word", 4: "Char"}.get(kind, shown(kind))
        raise TokenizerError(f"{path}: expected a model of type BPE, found {name}.")
    changes = {
        "a table of characters": take(normalizer, 2, b"") != b"", "fewer spaces": take(normalizer, 4, 1), "spaces unmarked": not
        take(normalizer, 5, 1), "spaces behind words": take(trainer, 24, 0),
    }  # fmt: skip
    if what := next((what for what, does in changes.items() if does), None):
        raise TokenizerError(f"{path}: text is changed before it is cut, by {what}, which is not supported.")
    if not found.tokens:
        raise TokenizerError(f"{path}: expected pieces, found none.")
    found.prefix = bool(take(normalizer, 3, 1))
    for name, (number, usual) in IDS.items():
        value = take(trainer, number, usual)  # -1, "none", is written as 2^64 - 1
        found.ids[name] = value if 0 <= value < len(found.tokens) else None
    return found


def take(message: dict[int, Any], number: int, default: Any) -> Any:
    """Take a field, which must be of the kind of its default."""
    value = message.get(number, default)
    if type(value) is not type(default):
        raise ValueError("a field of another kind")
    return value


def fields(data: Any) -> Iterator[tuple[int, Any]]:  # bytes of a message -> (number, int, float or bytes), in order
    """Read the fields of a message. IndexError, ValueError or struct.error where it is none."""
    at = 0
    if not isinstance(data, bytes):
        raise ValueError("no message")
    while at < len(data):
        key, at = varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, at = varint(data, at)
            yield number, value
        elif kind == FOUR:
            yield number, struct.unpack_from("<f", data, at)[0]
            at += 4
        elif kind == EIGHT:
            yield number, struct.unpack_from("<d", data, at)[0]
            at += 8
        elif kind == BYTES:
            length, at = varint(data, at)
            if length > len(data) - at:
                raise ValueError("a length beyond the end")
            yield number, data[at : at + length]
            at += length
        else:
            raise ValueError("no kind of value")


def varint(data: bytes, at: int) -> tuple[int, int]:  # -> the number, where the next field begins
    number = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        number, at = number | (byte & 127) << shift, at + 1
        if byte < 128:
            return number, at
    raise ValueError("a number of more than 64 bits")
