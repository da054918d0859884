"""A request goes out, bytes come back as they arrive: HTTP/1.1 for watching a stream of tokens.

h11 knows the grammar, that of RFC 9112, and touches no socket; asyncio's streams do, and know no grammar. What is left is to
keep connections for the next request, and to tell a server that closed before it answered from one that closed within.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from minillm.errors import MiniLLMError
from minillm.formats.expect import excerpt
from minillm.load.client_sse import Trouble

READ = 1 << 16  # bytes at once, and of the longest head of an answer


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a server. path: what comes before /v1, or nothing."""

    secure: bool
    host: str
    port: int
    path: str


def address(url: str) -> Address:
    """Parse http://host:port, with or without /v1 at its end. Errors: MiniLLMError."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port
    except ValueError as error:
        raise MiniLLMError(f"{excerpt(url)}: not a URL ({error}).") from None
    plain = re.fullmatch(r"[!-~]*", url) and not (parts.query or parts.fragment or parts.username)
    if parts.scheme not in ("http", "https") or not parts.hostname or not plain:
        raise MiniLLMError(f"a server is given as http://HOST:PORT or https://HOST, found {excerpt(url)}.")
    path = parts.path.rstrip("/").removesuffix("/v1")
    return Address(parts.scheme == "https", parts.hostname, port or (443 if parts.scheme == "https" else 80), path)


class Closed(Exception):
    """The server closed before it sent a byte of its answer."""


def library() -> Any:  # -> h11
    try:
        import h11
    except ImportError:
        raise MiniLLMError("a client needs h11, which is not installed: pip install 'minillm-course[serve]'") from None
    return h11


class Connection:
    """A socket's two streams, and h11's state of the exchange on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.h11 = library()
        self.reader, self.writer = reader, writer
        self.http = self.h11.Connection(self.h11.CLIENT, max_incomplete_event_size=READ)
        self._last = b""  # what came last, for messages

    async def ask(  # -> h11.Response: the head of the answer
        self, method: str, target: str, headers: Sequence[tuple[str, str]], body: bytes
    ) -> Any:
        """Send a whole request. Closed: it did not arrive, and may be sent on another connection."""
        request = self.h11.Request(method=method, target=target, headers=headers)
        events = [request, *([self.h11.Data(data=body)] if body else []), self.h11.EndOfMessage()]
        try:
            self.writer.write(b"".join(map(self.http.send, events)))
            await self.writer.drain()
            while not isinstance(event := await self.next_event(), self.h11.Response):
                pass  # 1xx: more will come
        except OSError:
            raise Closed from None
        return event

    async def next_event(self) -> Any:  # -> h11.Response, Data, EndOfMessage, …
        """Read the next event. Closed: not a byte came. Trouble: the answer is cut short, or no HTTP."""
        while (event := self._parsed()) is self.h11.NEED_DATA:
            self._last = await self.reader.read(READ)
            if self._last:
                self.http.receive_data(self._last)
            elif self.http.their_state is not self.h11.SEND_RESPONSE:
                self.http.receive_data(b"")  # the end of a body without a length, or one that is cut short
            elif partial := self.http.trailing_data[0]:
                raise Trouble("not http", f"found {excerpt(partial)}")
            else:
                raise Closed
        return event

    def _parsed(self) -> Any:
        try:
            return self.http.next_event()
        except self.h11.RemoteProtocolError as error:
            if not self._last:
                raise Trouble("disconnected", "the server closed in the middle of its answer") from None
            raise Trouble("not http", f"{str(error)[:80]}, found {excerpt(self._last)}") from None

    def renew(self) -> bool:  # -> whether another request may follow
        """Reset h11's state after the end of an answer."""
        done = self.http.our_state is self.http.their_state is self.h11.DONE and not self.http.trailing_data[0]
        if done:
            self.http.start_next_cycle()
        return done

    def alive(self) -> bool:
        return not (self.reader.at_eof() or self.writer.is_closing())

    def close(self) -> None:
        self.writer.close()


class Response:
    """Status, headers, and the body as it comes."""

    def __init__(self, head: Any, connection: Connection, pool: "Pool") -> None:
        self.status = head.status_code
        self.headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}  # names in lower case
        self._connection: Connection | None = connection
        self._pool = pool

    async def body(self) -> AsyncIterator[bytes]:  # -> yields bytes, as they come
        """Read the body to its end. Trouble: it was cut short. At its end, the connection is free for the next request."""
        connection: Any = self._connection
        while not isinstance(event := await connection.next_event(), connection.h11.EndOfMessage):
            yield bytes(event.data)
        if connection.renew():
            self._pool.give(connection)
            self._connection = None

    async def text(self, most: int = 1 << 16) -> bytes:
        """Read the whole body, but not more than so many bytes of it."""
        data = b""
        async for part in self.body():
            data += part
            if len(data) > most:
                return data[:most]
        return data

    def close(self) -> None:
        """Close the response. Unread data is dropped: the server sees the connection close."""
        if self._connection:
            self._connection.close()
            self._connection = None


class Pool:
    """Connections to one server. send(...) -> Response; its close() must be called."""

    def __init__(self, where: Address, headers: Sequence[tuple[str, str]] = ()) -> None:  # headers: [(name, value)]
        library()
        self.where = where
        self._idle: list[Connection] = []
        host = f"[{where.host}]" if ":" in where.host else where.host
        own = [("Host", f"{host}:{where.port}"), ("User-Agent", "minillm-loadtest"), ("Accept-Encoding", "identity")]
        self._headers = [*own, *headers]

    async def send(self, method: str, path: str, body: bytes = b"") -> Response:
        """Send a request, wait for the headers of the answer. Trouble: no connection, closed, or no HTTP."""
        about = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))] if body else []
        while True:
            connection, used = await self._take()
            try:
                head = await connection.ask(method, f"{self.where.path}{path}", [*self._headers, *about], body)
                return Response(head, connection, self)
            except Closed as error:
                connection.close()
                if not used:  # a kept connection may have been closed meanwhile: once more, on another
                    raise Trouble("disconnected", "the server closed before it answered") from error
            except BaseException:
                connection.close()
                raise

    async def _take(self) -> tuple[Connection, bool]:  # -> Connection, was it used before
        while self._idle:
            connection = self._idle.pop()
            if connection.alive():
                return connection, True
            connection.close()
        try:
            w = self.where
            return Connection(*await asyncio.open_connection(w.host, w.port, ssl=w.secure or None, limit=READ)), False
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that is no host's
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise Trouble("cannot connect", f"{self.where.host}:{self.where.port}: {reason}") from None

    def give(self, connection: Connection) -> None:
        self._idle.append(connection)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()
