"""Server-sent events, as servers of language models send them, from bytes that arrive in any pieces.

    data: {"choices": [{"index": 0, "text": "Hel"}]}        a line that begins with "data:"; several make one event
                                                            an empty line ends the event
    : still here                                            a comment, to keep the connection open
    data: [DONE]                                            OpenAI's way to say that nothing more will come

A read from a socket may end anywhere: inside a line, inside the two bytes of an é, between \\r and \\n. So the parser works
on bytes and keeps what is not yet a line. Lines end with \\n, \\r\\n or \\r. Source: the HTML standard, section 9.2.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from minillm.errors import MiniLLMError
from minillm.formats.expect import excerpt

LONGEST = 1 << 20  # bytes of an event: more is no chunk of text
BOM = b"\xef\xbb\xbf"


class Trouble(MiniLLMError):
    """An error of a request. kind: a few words to count it by ("http 429", "timeout", "disconnected")."""

    def __init__(self, kind: str, message: str = "") -> None:
        super().__init__(f"{kind}: {message}" if message else kind)
        self.kind, self.message = kind, message


class Parser:
    """Bytes in, events out: feed(bytes) -> [data of an event, bytes]. Trouble where an event is endless."""

    def __init__(self) -> None:
        self._rest, self._size = b"", 0
        self._data: list[bytes] = []
        self._after_cr, self._first = False, True

    def feed(self, data: bytes) -> list[bytes]:
        if self._after_cr and data:  # a \n after the \r that ended the last line belongs to it
            data, self._after_cr = data.removeprefix(b"\n"), False
        lines = (self._rest + data).splitlines(keepends=True)
        self._rest = b"" if not lines or lines[-1].endswith((b"\n", b"\r")) else lines.pop()
        if lines and not self._rest:
            self._after_cr = lines[-1].endswith(b"\r")
        found = [event for line in lines if (event := self._line(line.rstrip(b"\r\n"))) is not None]
        if self._size + len(self._rest) > LONGEST:
            raise Trouble("not a stream", f"an event has at most {LONGEST:,} bytes, this one more")
        return found

    def close(self) -> list[bytes]:
        """Return the events that the server did not end with an empty line."""
        last, self._rest = self._rest, b""
        found = [self._line(last), self._line(b"")]
        return [event for event in found if event is not None]

    def _line(self, line: bytes) -> bytes | None:  # -> data of the event that this line ends, or None
        if self._first:
            line, self._first = line.removeprefix(BOM), False
        if not line:
            data, self._data, self._size = self._data, [], 0
            return b"\n".join(data) if data else None
        name, _, value = line.partition(b":")
        if name == b"data":  # else a comment (no name), or event:, id:, retry:, which say nothing here
            self._data.append(value.removeprefix(b" "))
            self._size += len(value)
        return None


@dataclass(slots=True)
class Chunk:
    """The content of one event. pieces: (index of the answer, text, tokens in it) where there is text."""

    pieces: list[tuple[int, str, int]] = field(default_factory=list)
    finish: dict[int, str] = field(default_factory=dict)
    usage: dict | None = None


def read_chunk(data: bytes) -> Chunk | None:  # bytes -> Chunk, or None for [DONE]
    """Parse a chunk of either endpoint. Trouble: the server reports an error, or this is no chunk."""
    if data.strip() == b"[DONE]":
        return None
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        raise Trouble("not a stream", f"expected JSON, found {excerpt(data)}") from None
    if isinstance(fields, dict) and fields.get("error"):
        raise Trouble("error in the stream", error_message(fields))
    choices = fields.get("choices") if isinstance(fields, dict) else None
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise Trouble("not a stream", f"expected an object with choices, found {excerpt(data)}")
    chunk = Chunk(usage=fields["usage"] if isinstance(fields.get("usage"), dict) else None)
    for choice in choices:
        index = choice.get("index") if type(choice.get("index")) is int else 0
        delta = choice.get("delta") if isinstance(choice.get("delta"), dict) else {}
        texts = [choice.get("text"), delta.get("content"), delta.get("reasoning_content"), delta.get("reasoning")]
        if text := "".join(t for t in texts if isinstance(t, str)):
            chunk.pieces.append((index, text, tokens_in(choice)))
        if isinstance(choice.get("finish_reason"), str):
            chunk.finish[index] = choice["finish_reason"]
    return chunk


def tokens_in(choice: dict) -> int:
    """Count the tokens of a piece: as many as the server names, else one."""
    logprobs = choice.get("logprobs")
    logprobs = logprobs if isinstance(logprobs, dict) else {}
    for named in (choice.get("token_ids"), logprobs.get("tokens"), logprobs.get("content")):
        if isinstance(named, list) and named:
            return len(named)
    return 1


def error_message(fields: Any) -> str:
    """Extract the message of an OpenAI-style error object, {"error": {"message": ...}}, or the like."""
    error = fields.get("error", fields) if isinstance(fields, dict) else fields
    message = error.get("message", error) if isinstance(error, dict) else error
    return excerpt(message if isinstance(message, str) else json.dumps(message))
