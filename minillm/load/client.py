"""A client that watches an answer come: for any OpenAI-compatible server, with the time of every chunk in an event log.

The clock of a request starts when it is handed over, before a connection is taken: so TTFT is what a user waits, also when
the server is slow to accept. The first token is the first chunk with text in it. A chunk counts as one token unless it says
otherwise; when the server reports its usage at the end, that count holds (events PROMPT_USAGE and USAGE). What fails is not
tried again: a 429 is a result.

    ARRIVED ─ (connect, send) ─ TOKEN ─ TOKEN ─ … ─ USAGE ─ FINISHED      or REFUSED (429, 503), or FAILED (all else)
"""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from minillm.errors import MiniLLMError
from minillm.load.client_http import Pool, Response, address
from minillm.load.client_sse import Chunk, Parser, Trouble, error_message, read_chunk
from minillm.metrics.events import ARRIVED, CACHED, CANCELLED, FAILED, FINISHED, PROMPT_USAGE, REFUSED, TOKEN, USAGE, EventLog

TURNED_AWAY = ("http 429", "http 503")


@dataclass(slots=True)
class RequestResult:
    """How a request ended. error: None, or its kind, for counting. The times are in the log, under `request`."""

    request: int
    error: str | None = None
    message: str = ""
    finish_reason: str = ""
    texts: dict[int, str] = field(default_factory=dict)  # answer -> what it says


class Client:
    """A client of one server and one model. Its methods are coroutines of one event loop; close() at the end."""

    def __init__(
        self, url: str, model: str | None = None, *, api_key: str | None = None, chat: bool = False, log: EventLog | None = None,
        timeout: float = 600.0, options: dict[str, Any] | None = None
    ) -> None:
        """options: more fields of every request's body, such as {"ignore_eos": True}. timeout: seconds of a whole request."""
        if not 0 < timeout < float("inf"):
            raise MiniLLMError(f"a time limit is above 0 seconds and finite, found {timeout}.")
        if api_key and not (api_key.isascii() and api_key.isprintable() and api_key == api_key.strip()):
            raise MiniLLMError("an API key is of printable ASCII characters, with no space around it; this one is not.")
        self.model, self.chat, self.timeout, self.options = model, chat, timeout, options or {}
        self.log = EventLog() if log is None else log
        self.pool = Pool(address(url), [("Authorization", f"Bearer {api_key}")] if api_key else [])

    def close(self) -> None:
        self.pool.close()

    async def models(self) -> list[str]:
        """List the server's models. Trouble: it cannot be reached, refuses the key, or has no such list."""
        try:
            async with asyncio.timeout(min(self.timeout, 30)):
                response = await self.pool.send("GET", "/v1/models")
                try:
                    data = await response.text(1 << 20)
                finally:
                    response.close()
        except TimeoutError:
            raise Trouble("timeout", f"no list of models after {min(self.timeout, 30):g} s") from None
        except OSError as error:
            raise Trouble("disconnected", str(error)) from None
        if response.status != 200:
            raise http_trouble(response.status, data)
        try:
            return [str(model["id"]) for model in json.loads(data)["data"]]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise Trouble("not an OpenAI server", "/v1/models has no list of models") from None

    def body(self, prompt: str | list[int], max_tokens: int) -> bytes:  # text or token ids -> bytes
        """Make the body of a request in advance: this takes time that should not be measured."""
        fields: dict[str, Any] = {"model": self.model, "max_tokens": max_tokens, "temperature": 0, "stream": True}
        fields |= {"messages": [{"role": "user", "content": prompt}]} if self.chat else {"prompt": prompt}
        return json.dumps(fields | {"stream_options": {"include_usage": True}} | self.options).encode()

    async def complete(self, request: int, body: bytes, prompt_tokens: int = 0) -> RequestResult:
        """Send a body and read the answer. An error is in the result and in the log; only a cancellation is raised."""
        outcome = RequestResult(request)
        self.log.add(request, ARRIVED, prompt_tokens)
        end = FAILED
        try:
            async with asyncio.timeout(self.timeout):
                await self._watch(request, body, outcome)
            end = FINISHED
        except Trouble as trouble:
            outcome.error, outcome.message = trouble.kind, trouble.message
            end = REFUSED if trouble.kind in TURNED_AWAY else FAILED
        except TimeoutError:
            outcome.error, outcome.message = "timeout", f"not finished after {self.timeout:g} s"
        except (OSError, ssl.SSLError) as error:
            outcome.error, outcome.message = "disconnected", str(error)
        except asyncio.CancelledError:
            outcome.error, end = "cancelled", CANCELLED
            raise
        finally:
            self.log.add(request, end)
        return outcome

    async def _watch(self, request: int, body: bytes, outcome: RequestResult) -> None:
        path = "/v1/chat/completions" if self.chat else "/v1/completions"
        response = await self.pool.send("POST", path, body)
        try:
            if response.status != 200:
                raise http_trouble(response.status, await response.text())
            if "text/event-stream" not in response.headers.get("content-type", ""):
                raise Trouble("not a stream", f"Content-Type is {response.headers.get('content-type', 'missing')!r}")
            await self._read(request, response, outcome)
        finally:
            response.close()

    async def _read(self, request: int, response: Response, outcome: RequestResult) -> None:
        parser, usage, done = Parser(), None, False
        pieces: dict[int, list[str]] = {}
        body = response.body()
        async for data in body:
            for event in parser.feed(data):
                if chunk := read_chunk(event):
                    usage = self._note(request, chunk, outcome, pieces) or usage
                else:
                    done = True
                    break
            if done:
                break
        for event in () if done else parser.close():
            chunk = read_chunk(event)
            done = chunk is None
            usage = (chunk and self._note(request, chunk, outcome, pieces)) or usage
        outcome.texts = {index: "".join(texts) for index, texts in pieces.items()}
        if not done and not outcome.finish_reason:
            raise Trouble("disconnected", "the stream ended without a finish_reason or [DONE]")
        if not pieces:
            raise Trouble("empty", "the answer has no text")
        self._note_usage(request, usage)
        await drain_body(body)

    def _note(  # -> usage, if the chunk has it
        self, request: int, chunk: Chunk, outcome: RequestResult, pieces: dict[int, list[str]]
    ) -> dict | None:
        for index, text, tokens in chunk.pieces:
            self.log.add(request, TOKEN, tokens, index)
            pieces.setdefault(index, []).append(text)
        for reason in chunk.finish.values():
            outcome.finish_reason = reason
        return chunk.usage

    def _note_usage(self, request: int, usage: dict | None) -> None:
        """Log the counts that a server reports."""
        usage = usage or {}
        details = usage.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) else None
        counts = {PROMPT_USAGE: usage.get("prompt_tokens"), USAGE: usage.get("completion_tokens"), CACHED: cached}
        for kind, count in counts.items():
            if type(count) is int and count > 0:
                self.log.add(request, kind, count)


async def drain_body(body: AsyncIterator[bytes]) -> None:
    """Read the end of the body after [DONE], which frees the connection; not for long, as a server may be slow."""
    try:
        async with asyncio.timeout(0.2):
            async for _ in body:
                pass
    except (TimeoutError, Trouble, OSError):
        pass  # then the connection is closed


def http_trouble(status: int, data: bytes) -> Trouble:
    """Make the error for an answer other than 200."""
    try:
        message = error_message(json.loads(data))
    except (ValueError, RecursionError):
        message = error_message(data.decode("utf-8", "replace"))
    return Trouble(f"http {status}", message)
