"""What protects the engine from clients: an API key, limits of size, time and concurrency, and a watch on the connection.

    request ─▶ Gate (host? key? too many?) ─▶ read_json (size? time? JSON?) ─▶ cancel_on_disconnect(work) ─▶ answer
                403    401    503               413    408    400             the client disconnects: the work is cancelled

A limit that is reached gives an error, never a hang: 408 says that the client was too slow in sending, 504 that the answer took
longer than the server allows, 503 that too many requests are in flight (*load shedding*: a rejection costs less than a queue
that grows without bound). The request of a client that disconnects is cancelled, and its KV blocks are free a moment later. A
client that only closes its sending side still gets its answer (listen.py).
"""

import asyncio
import contextlib
import hmac
import ipaddress
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from minillm.server.fields import parse_json
from minillm.server.wire import ApiError, encode

LINGER = 1 << 24  # bytes of a refused body that are read, so that its sender can read why

Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Options:
    """Limits of a server. api_key: one, or a tuple of several; None: no key is needed. Times in seconds, sizes in bytes.

    timeout_s: from the request to the last token. read_s: for a client to send its head, and again its body. requests: in
    flight at once, waiting ones included (each may hold a body). grace_s: for accepted requests at shutdown. local: accept
    requests to the names of this machine only. cors: origins whose web pages may call, "*" for all; by default none.
    log: called with the record of each request when it is over (envelope.py).
    """

    api_key: str | tuple[str, ...] | None = None
    timeout_s: float = 600.0
    read_s: float = 20.0
    body_limit: int = 1 << 20
    requests: int = 2048
    grace_s: float = 30.0
    local: bool = False
    cors: tuple[str, ...] = ()
    log: Callable[[dict], None] | None = None


class Gate:
    """ASGI middleware: checks the key, and limits concurrency. active: requests in flight that had a valid key."""

    def __init__(self, app: ASGIApp, options: Options) -> None:
        self.app, self.options, self.active = app, options, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if (b"expect", b"100-continue") not in scope["headers"]:  # with 100-continue the client waits before it sends a body
            patient = Linger(receive, send, self.options)
            receive, send = patient.receive, patient.send
        try:
            if self.options.local:
                check_host(scope["headers"])
            if scope["path"] != "/health":
                check_key(scope["headers"], self.options.api_key)
            return await self.limit_concurrency(scope, receive, send)
        except ApiError as error:
            return await send_error(send, error)

    async def limit_concurrency(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count a request while it runs; shed load beyond the limit. Rejected clients, which may read slowly, do not count."""
        if self.active >= self.options.requests:
            message = f"{self.options.requests:,} requests are at hand already, the most this server takes."
            raise ApiError(message, status=503, type="server_error", code="too_many_requests", headers={"Retry-After": "1"})
        self.active += 1
        try:
            return await self.app(scope, receive, send)
        finally:
            self.active -= 1


class Linger:
    """Lingering close: reads the rest of a body before an error is sent.

    A connection that is closed while data is on its way is reset, and a reset can destroy the response before it is read. So
    the rest of a body is read and discarded first, at most LINGER bytes. Not for 408: that client was too slow already.
    """

    def __init__(self, receive: Receive, send: Send, options: Options) -> None:
        self.on, self.out, self.options, self.complete = receive, send, options, False

    async def receive(self) -> Message:
        message = await self.on()
        self.complete = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message.get("status", 0) >= 400 and message["status"] != 408 and not self.complete:
            left = LINGER
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.options.read_s):
                    while not self.complete and left > 0:
                        left -= len((await self.receive()).get("body", b""))
        await self.out(message)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def check_host(headers: Headers) -> None:
    """Reject a request to another host's name, where only this machine should reach us.

    A web page can have its own name point to 127.0.0.1 (DNS rebinding): its visitor's browser then asks us, in good faith.
    """
    host = dict(headers).get(b"host", b"").decode("latin-1").strip()
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name and not is_loopback(name.lower()):
        message = f"this server is for its own machine alone, as localhost or 127.0.0.1; the request is for {name[:100]!r}."
        raise ApiError(message, status=403, code="wrong_host")


def check_key(headers: Headers, keys: str | tuple[str, ...] | None) -> None:
    """Check the API key in constant time: it does not tell how much of a wrong key is right, nor which of several it is."""
    if keys is None:
        return
    given = dict(headers).get(b"authorization", b"")
    scheme, _, token = given.partition(b" ")
    known = [hmac.compare_digest(token.strip(), key.encode()) for key in ((keys,) if isinstance(keys, str) else keys)]
    if scheme.lower() != b"bearer" or not any(known):
        wrong = "a wrong key" if given else "none"
        raise ApiError(
            f"an API key is needed: 'Authorization: Bearer KEY', found {wrong}.",
            status=401,
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )


async def send_error(send: Send, error: ApiError) -> None:
    """Send an error as a whole response."""
    more = [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    await respond(send, error.status, encode(error.body()), more)


async def respond(send: Send, status: int, body: bytes, headers: Headers = ()) -> None:
    """Send a whole response in JSON."""
    length = str(len(body)).encode()
    head = [(b"content-type", b"application/json"), (b"content-length", length), *headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


async def read_json(request: Request, options: Options) -> Any:
    """Read the body of a request, within its limits. Only application/json: so a web page of another origin needs a CORS
    preflight, which this server grants to the origins in Options.cors and to no other."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(f"the content type must be application/json, found {kind[:60]!r}.", status=415)
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared[:20]) > options.body_limit:
        raise too_large_error(options, f"{declared[:20]} bytes")
    body = bytearray()
    try:
        async with asyncio.timeout(options.read_s):
            async for piece in request.stream():
                body += piece
                if len(body) > options.body_limit:
                    raise too_large_error(options, "more", {"Connection": "close"})
    except TimeoutError:
        message = f"the body did not arrive within {options.read_s:g} s: {len(body):,} bytes did."
        raise ApiError(message, status=408, code="timeout", headers={"Connection": "close"}) from None
    return parse_json(bytes(body))


def too_large_error(options: Options, found: object, headers: dict | None = None) -> ApiError:
    return ApiError(f"a body has at most {options.body_limit:,} bytes, found {found}.", status=413, headers=headers)


async def cancel_on_disconnect(receive: Receive, work: Coroutine) -> None:
    """Run a coroutine; cancel it if the client disconnects, and wait until it has cleaned up."""
    worker, watcher = asyncio.ensure_future(work), asyncio.ensure_future(disconnected(receive))
    try:
        await asyncio.wait({worker, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if worker.done():
            worker.result()
    finally:
        worker.cancel()
        watcher.cancel()
        await asyncio.gather(worker, watcher, return_exceptions=True)


async def disconnected(receive: Receive) -> None:
    """Wait until the client has disconnected. Nothing else can come: the body was read."""
    while (await receive())["type"] != "http.disconnect":
        pass
