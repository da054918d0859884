"""Just enough HTTP/1.1 to watch a stream of tokens: a request goes out, bytes come back as they arrive.

A load generator shares the machine with what it measures, so it should cost little: this is asyncio's own streams and two
hundred lines to read instead of a library. Connections are kept and used again. A body is framed in one of three ways:

    Transfer-Encoding: chunked     7\\r\\n seven bytes \\r\\n ... 0\\r\\n\\r\\n
    Content-Length: N              N bytes
    neither                        until the server closes

RFC 9112, sections 6 and 7.
"""

import asyncio
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from minillm.errors import MiniLLMError
from minillm.formats.expect import excerpt
from minillm.load.client_sse import Trouble

READ = 1 << 16  # bytes at once
STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})(?: |\r|$)")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is. path: what comes before /v1 or nothing."""

    secure: bool
    host: str
    port: int
    path: str


def address(url):  # -> Address
    """Of http://host:port, with or without /v1 at its end. Errors: MiniLLMError."""
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


class Dechunker:
    """Takes the chunks' frames off: feed(bytes) -> bytes, until `done`. Trouble where a frame is none."""

    def __init__(self):
        self.done = False
        self._rest, self._left = b"", 0  # left: of this chunk, its final \r\n included
        self._trailer = False

    def feed(self, data):
        self._rest += data
        found = []
        while self._rest and not self.done:
            if self._left:
                part, self._rest = self._rest[: self._left], self._rest[self._left :]
                found.append(part[: max(0, self._left - 2)])
                self._left -= len(part)
                continue
            line, ended, rest = self._rest.partition(b"\r\n")
            if not ended:
                if len(line) > 4096:
                    raise Trouble("not http", "the size of a chunk has no end")
                break
            self._rest = rest
            if self._trailer:  # fields after the last chunk, up to an empty line
                self.done = not line
                continue
            size = line.partition(b";")[0].strip()
            if not re.fullmatch(rb"[0-9A-Fa-f]{1,15}", size):
                raise Trouble("not http", f"expected the size of a chunk, found {excerpt(line)}")
            self._left = int(size, 16)
            self._trailer = not self._left
            self._left += 2 if self._left else 0
        return b"".join(found)


class Response:
    """Status, headers, and the body as it comes."""

    def __init__(self, status, headers, connection, pool):
        self.status, self.headers = status, headers
        self._connection, self._pool = connection, pool

    async def body(self):  # -> yields bytes, one read at a time
        """To the end. Trouble: it was cut short. Read to its end, the connection is free for the next request."""
        reader, left = self._connection[0], None
        chunks = Dechunker() if "chunked" in self.headers.get("transfer-encoding", "").lower() else None
        if chunks is None and "content-length" in self.headers:
            left = int(self.headers["content-length"])
        while left != 0 and not (chunks and chunks.done):
            data = await reader.read(READ if left is None else min(READ, left))
            if not data:
                if chunks is None and left is None:
                    break
                raise Trouble("disconnected", "the server closed in the middle of its answer")
            left = None if left is None else left - len(data)
            if data := chunks.feed(data) if chunks else data:
                yield data
        framed = chunks is not None or left == 0
        if framed and self.headers.get("connection", "").lower() != "close":
            self._pool.give(self._connection)
            self._connection = None

    async def text(self, most=1 << 16):  # -> bytes
        """The whole body, but not more than so many bytes of it."""
        data = b""
        async for part in self.body():
            data += part
            if len(data) > most:
                return data[:most]
        return data

    def close(self):
        """Leave. What has not been read is not wanted: the server sees the connection close."""
        if self._connection:
            self._connection[1].close()
            self._connection = None


class Pool:
    """Connections to one server. send(...) -> Response; its close() must be called."""

    def __init__(self, where, headers=()):
        self.where = where
        self._idle = []
        host = f"[{where.host}]" if ":" in where.host else where.host
        lines = [f"Host: {host}:{where.port}", "User-Agent: minillm-loadtest", "Accept-Encoding: identity", *headers]
        self._headers = "".join(f"{line}\r\n" for line in lines)

    async def send(self, method, path, body=b""):
        """Send a request, wait for the headers of the answer. Trouble: no connection, closed, or no HTTP."""
        head = f"{method} {self.where.path}{path} HTTP/1.1\r\n{self._headers}"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        request = f"{head}\r\n".encode() + body
        while True:
            connection, used = await self._take()
            try:
                return await self._exchange(connection, request)
            except Closed as error:
                connection[1].close()
                if not used:  # a kept connection may have been closed meanwhile: once more, on another
                    raise Trouble("disconnected", "the server closed before it answered") from error
            except BaseException:
                connection[1].close()
                raise

    async def _exchange(self, connection, request):
        reader, writer = connection
        try:
            writer.write(request)
            await writer.drain()
            status, headers = 100, {}
            while status < 200:  # 1xx: more will come
                status, headers = parse_head(await reader.readuntil(b"\r\n\r\n"))
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise Trouble("not http", f"found {excerpt(error.partial)}") from None
            raise Closed from None
        except asyncio.LimitOverrunError:
            raise Trouble("not http", "the headers have no end") from None
        except OSError:
            raise Closed from None
        return Response(status, headers, connection, self)

    async def _take(self):  # -> (reader, writer), was it used before
        while self._idle:
            reader, writer = self._idle.pop()
            if not (reader.at_eof() or writer.is_closing()):
                return (reader, writer), True
            writer.close()
        try:
            w = self.where
            return await asyncio.open_connection(w.host, w.port, ssl=w.secure or None, limit=READ), False
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that is no host's
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise Trouble("cannot connect", f"{self.where.host}:{self.where.port}: {reason}") from None

    def give(self, connection):
        self._idle.append(connection)

    def close(self):
        while self._idle:
            self._idle.pop()[1].close()


class Closed(Exception):
    """The server closed before a byte of its answer."""


def parse_head(head):  # bytes -> status, {name in lower case: value}
    lines = head[:-4].split(b"\r\n")
    match = STATUS.match(lines[0])
    if not match:
        raise Trouble("not http", f"found {excerpt(lines[0])}")
    pairs = (line.decode("latin-1").partition(":") for line in lines[1:])
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    if not re.fullmatch(r"\d{1,15}", headers.get("content-length", "0")):
        raise Trouble("not http", f"Content-Length is {excerpt(headers['content-length'])}")
    return int(match[1]), headers
