"""What goes back over the wire: answers, chunks of a stream and errors, each in the shape that OpenAI's clients expect.

    completion        {"object": "text_completion", "choices": [{"index", "text", "logprobs", "finish_reason", ...}], "usage"}
    chat              {"object": "chat.completion", "choices": [{"index", "message": {"role", "content"}, ...}], "usage"}
    a chunk of one    the same with what is new: "text", or "delta" in place of "message"; data: {...}, a blank line
    an error          {"error": {"message", "type", "param", "code"}}, with a status of 4xx or 5xx

JSON is written in ASCII with escapes, so the bytes are valid whatever a model or a message contains. A chunk is sent for every
token, also where it shows no text yet (half a character, a possible stop string): so a client that counts chunks counts
tokens, and its TTFT is ours.
"""

import json
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from minillm.engine.answer import Delta
from minillm.errors import RequestError
from minillm.model.logprobs import TokenLogprob

LEAST_LOGPROB = -9999.0  # JSON has no -inf; OpenAI's number for "as good as impossible"
FINGERPRINT = "minillm"


class ApiError(RequestError):
    """An error response. status: HTTP's. param: the field at fault. headers: more of them, such as Retry-After."""

    def __init__(
        self,
        message: str,
        param: str | None = None,
        code: str | None = None,
        status: int = 400,
        type: str = "invalid_request_error",
        headers: dict | None = None,
    ) -> None:
        super().__init__(message)
        self.param, self.code, self.status, self.type, self.headers = param, code, status, type, headers or {}

    def body(self) -> dict:
        return {"error": {"message": str(self), "type": self.type, "param": self.param, "code": self.code}}


def encode(values: object) -> bytes:
    return json.dumps(values, separators=(",", ":"), allow_nan=False).encode()


def event(values: object) -> bytes:
    """Encode one server-sent event."""
    return b"data: " + encode(values) + b"\n\n"


DONE = b"data: [DONE]\n\n"


def usage(prompt: int, completion: int, cached: int) -> dict:
    """Make the usage object. prompt: counted once, also with several answers. cached: its tokens from the prefix cache."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


@dataclass(frozen=True, slots=True)
class Echo:
    """A prompt that its completion begins with. offsets: where in the text each token begins. scored: with log-probabilities."""

    text: str
    token_ids: list[int]
    offsets: list[int]
    scored: bool


class Writer:
    """Turns the deltas of one request into choices. A subclass says how text and log-probabilities are laid out."""

    prefix: str
    object: str
    chunk_object: str

    def part(self, text: str, first: bool) -> dict:
        """Lay out a piece of text, for a chunk."""
        raise NotImplementedError

    def full(self, text: str) -> dict:
        """Lay out the whole text."""
        raise NotImplementedError

    def logprobs(self, ids: list[int], records: Sequence[TokenLogprob | None], offsets: list[int]) -> dict:
        """Lay out log-probabilities of tokens; the first of a prompt has none. offsets: where in the text each begins to show."""
        raise NotImplementedError

    def __init__(self, model: str, token_bytes: Callable[[int], bytes]) -> None:
        self.token_bytes = token_bytes  # token id -> bytes
        self.head = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "object": self.object,
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": FINGERPRINT,
        }
        self.written: dict[int, int] = {}  # index of a choice -> characters of it so far

    def whole(self, choices: list, counts: dict) -> dict:
        return {**self.head, "choices": choices, "usage": counts}

    def chunk(self, choices: list, more: dict | None = None) -> dict:
        return {**self.head, "object": self.chunk_object, "choices": choices, **(more or {})}

    def name(self, token: int) -> str:
        """Name a token by its text. Part of a character has none, nor has a row of the model's padding: these get names, so
        that no two tokens look alike: OpenAI's for bytes, vLLM's for ids."""
        data = self.token_bytes(token)
        try:
            return data.decode() or f"token_id:{token}"
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

    def piece(self, index: int, delta: Delta, echo: Echo | None = None) -> dict:
        """Make the choice of a chunk: what one delta adds to answer `index`; to its first, the echo."""
        first, at = index not in self.written, self.written.get(index, 0)
        text, logprobs = self.lay_out(at, [delta], echo if first else None)
        self.written[index] = at + len(text)
        return self.ended({"index": index, **self.part(text, first), "logprobs": logprobs}, delta)

    def choice(self, index: int, deltas: list[Delta], echo: Echo | None = None) -> dict:
        """Make the choice of the whole answer `index`."""
        text, logprobs = self.lay_out(0, deltas, echo)
        return self.ended({"index": index, **self.full(text), "logprobs": logprobs}, deltas[-1])

    def ended(self, choice: dict, last: Delta) -> dict:
        return {**choice, "finish_reason": last.finish_reason, "stop_reason": last.stop_reason}

    def lay_out(self, at: int, deltas: list[Delta], echo: Echo | None) -> tuple[str, dict | None]:
        """Lay out an echo and deltas -> text, log-probabilities. at: characters of the answer before them."""
        text = echo.text if echo else ""
        ids, offsets, records = [], [], []
        if echo and echo.scored:
            ids, offsets, records = [*echo.token_ids], [*echo.offsets], [*(deltas[0].prompt_logprobs or [])]
        for delta in deltas:
            ids += [record.token_id for record in delta.logprobs]
            offsets += [at + len(text)] * len(delta.logprobs)
            records += delta.logprobs
            text += delta.text
        return text, self.logprobs(ids, records, offsets) if records else None

    def prompt_logprobs(self, records: list[TokenLogprob | None]) -> list[dict | None]:
        """Lay out the log-probabilities of a prompt as vLLM does: for each token {id: {"logprob", "rank", "decoded_token"}}."""

        def entry(token: int, logprob: float, rank: int) -> dict:
            return {"logprob": finite(logprob), "rank": rank, "decoded_token": self.name(token)}

        def entries(r: TokenLogprob) -> dict:
            best = {str(i): entry(i, p, rank) for rank, (i, p) in enumerate(r.top.items(), 1)}
            return {str(r.token_id): entry(r.token_id, r.logprob, r.rank), **best}

        return [None if record is None else entries(record) for record in records]


class TextWriter(Writer):
    """/v1/completions."""

    prefix, object, chunk_object = "cmpl", "text_completion", "text_completion"

    def part(self, text: str, first: bool) -> dict:
        return {"text": text}

    def full(self, text: str) -> dict:
        return {"text": text}

    def logprobs(self, ids: list[int], records: Sequence[TokenLogprob | None], offsets: list[int]) -> dict:
        """offsets: where the text that a token made visible begins. The chosen token is always among the top ones."""
        return {
            "tokens": [self.name(i) for i in ids],
            "token_logprobs": [r and finite(r.logprob) for r in records],
            "top_logprobs": [r and self.tops(r) for r in records] if any(r and r.top for r in records) else None,
            "text_offset": offsets,
        }

    def tops(self, record: TokenLogprob) -> dict[str, float]:
        best = {self.name(i): finite(p) for i, p in record.top.items()}
        return {**best, self.name(record.token_id): finite(record.logprob)}


class ChatWriter(Writer):
    """/v1/chat/completions."""

    prefix, object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def part(self, text: str, first: bool) -> dict:
        return {"delta": {**({"role": "assistant"} if first else {}), "content": text}}

    def full(self, text: str) -> dict:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def logprobs(self, ids: list[int], records: Sequence[TokenLogprob | None], offsets: list[int]) -> dict:
        found = [record for record in records if record is not None]  # all: a chat has no echo

        def entry(token: int, logprob: float) -> dict:
            return {"token": self.name(token), "logprob": finite(logprob), "bytes": list(self.token_bytes(token))}

        tops = [[entry(i, p) for i, p in record.top.items()] for record in found]
        content = [{**entry(r.token_id, r.logprob), "top_logprobs": top} for r, top in zip(found, tops, strict=True)]
        return {"content": content, "refusal": None}


def finite(logprob: float) -> float:
    return max(float(logprob), LEAST_LOGPROB)
