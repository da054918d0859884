"""From an app to an open port and back: bind, serve, and shut down gracefully (drain) without dropping a request.

    SIGTERM ─▶ new requests get 503 ─▶ accepted ones finish, for grace_s at most ─▶ the rest end with an error ─▶ close
               /health says 503          the port stays open all the while

Closing the port first, as many servers do, drops clients that connect in that moment; so it comes last. A second signal means
now. Uvicorn's own shutdown closes the port; its protocol gets the one limit that it lacks: a time for a client to send the
head of its request (without one, a thousand silent connections cost an attacker nothing and us a thousand sockets).
"""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import h11
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from minillm.errors import MiniLLMError
from minillm.server.wire import ApiError, encode

BACKLOG = 4096  # connections that the system may hold before we accept them
VANISHED_S = 60  # for a peer to acknowledge what we sent, or a keep-alive
CLOSING_S = 5  # for responses that are complete to leave
FIRST_PROBE_S, PROBE_S = 0.05, 1.0  # between two probes of a client that sends no more


def bind(host: str, port: int) -> socket.socket:
    """Open a listening socket; port 0 takes a free one. Clients that connect before `run` wait in its backlog.

    A token is sent at once: without TCP_NODELAY the second small packet waits until the reader acknowledges the first, and
    the reader delays that by 40 ms. (asyncio sets it only on sockets that were made for IPPROTO_TCP by name.)
    A peer that vanishes is noticed: data that is not acknowledged for VANISHED_S closes the connection, which cancels its
    request. MiniLLMError where the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        options = {"TCP_USER_TIMEOUT": VANISHED_S * 1000, "TCP_KEEPIDLE": VANISHED_S // 2, "TCP_KEEPINTVL": VANISHED_S // 6}
        for name, value in options.items():  # Linux; accepted sockets inherit them
            if hasattr(socket, name):
                listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        listener.bind((host, port))
        listener.listen(BACKLOG)  # now: two programs can be bound to a port, but only one can listen
    except (OSError, OverflowError, TypeError, UnicodeError) as error:  # the last two: a host that no name can be
        listener.close()
        raise MiniLLMError(f"cannot listen on {host} port {port}: {error}.") from None
    listener.setblocking(False)
    return listener


def raise_file_limit(wanted: int = 2 * BACKLOG) -> int | None:  # how many this process may have open
    """Raise the soft limit of open files, which is often 1,024: every connection is one."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return soft


def make_server(app: Starlette, ready: Callable[[], object] | None = None) -> "Server":
    """Make a server for an app. Run it with `server.run(sockets=[bind(host, port)])`, in a thread if you like.

    ready: called once requests are accepted.
    """
    options = app.state.front.options
    http = type("Protocol", (PatientProtocol,), {"head_s": options.read_s})
    config = uvicorn.Config(
        app,
        http=http,
        ws="none",
        lifespan="on",
        backlog=BACKLOG,
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_keep_alive=int(options.read_s) or 1,
        timeout_graceful_shutdown=CLOSING_S,
    )
    return Server(config, app.state.front, ready)


class Server(uvicorn.Server):
    """Uvicorn, with a graceful shutdown: accepted requests finish first."""

    def __init__(self, config: uvicorn.Config, front: Any, ready: Callable[[], object] | None = None) -> None:  # app.Frontend
        super().__init__(config)
        self.front, self.ready, self.asked = front, ready, 0
        self.draining: asyncio.Task | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.ready:
            self.ready()

    def stop(self) -> None:
        """Begin to shut down; from any thread, or a signal. A second call shuts down at once."""
        self.asked += 1
        if self.asked > 1:
            self.should_exit = self.force_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Control-C in a terminal: a person waits, so twice means at once. Twice SIGTERM means the same as once.
        if sig != signal.SIGTERM or not self.asked:
            self.stop()

    async def on_tick(self, counter: int) -> bool:
        if self.asked and self.draining is None:
            self.draining = asyncio.create_task(self.drain())
        return await super().on_tick(counter)

    async def drain(self) -> None:
        """Drain: refuse new requests, finish accepted ones; those left after the grace time end with an error."""
        self.front.stopping = True
        try:
            finishing = asyncio.ensure_future(self.front.engine.stop(drain=True))
            done, _ = await asyncio.wait({finishing}, timeout=self.front.options.grace_s)
            if not done:
                await self.front.engine.stop(drain=False)
        finally:
            self.should_exit = True


class PatientProtocol(H11Protocol):
    """Uvicorn's HTTP/1.1, patient for head_s seconds: then a connection on which no request has begun is closed."""

    head_s = 20.0
    waiting: asyncio.TimerHandle | None = None
    probing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.start_head_timer()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.stop_head_timer()
        if self.probing is not None:
            self.probing.cancel()

    def eof_received(self) -> bool:  # type: ignore[override]  # whether the connection stays open, as asyncio asks
        """Handle a half-closed connection: with its request complete, a client may still read (nc -N; RFC 9112, section 9.6).

        A client that has closed for good looks the same, and its request should stop. The difference: the machine of such a
        client answers what we send with a reset. So we send data without meaning.
        """
        cycle = self.cycle
        if cycle is None or cycle.response_complete or cycle.more_body:
            return False
        cycle.keep_alive = False
        if self.probing is None:
            self.probe(FIRST_PROBE_S)
        return True

    def probe(self, wait: float) -> None:
        """Send an interim response, which every HTTP/1.1 client skips; once a response has begun its own bytes do the same.

        The first is answered by a reset, the second then finds the connection closed (connection_lost).
        """
        if self.transport.is_closing() or self.cycle.response_complete:
            return
        if self.conn.our_state is h11.SEND_RESPONSE and self.conn.their_http_version != b"1.0":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.probing = self.loop.call_later(wait, self.probe, PROBE_S)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.probing is not None:  # nothing more will be asked
            self.transport.close()

    def start_head_timer(self) -> None:
        """Run a timer while the head of a request is incomplete; further pieces of it do not restart the timer."""
        if self.conn.their_state is not h11.IDLE or self.transport.is_closing():
            self.stop_head_timer()
        elif self.waiting is None:
            self.waiting = self.loop.call_later(self.head_s, self.timeout_keep_alive_handler)

    def stop_head_timer(self) -> None:
        if self.waiting is not None:
            self.waiting.cancel()
            self.waiting = None

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are not HTTP with an error in our form, if no response has begun."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = encode(ApiError(msg).body())
            head = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
            for part in (h11.Response(status_code=400, headers=head), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(part))
        self.transport.close()
