"""Middleware around every request: an id to find it by, a log record, and CORS.

    request ─▶ Envelope (x-request-id, log) ─▶ CORS, where the server has origins ─▶ Gate ─▶ the application
           ◀── x-request-id: the client's own, or a new one

A client that sends an id finds it in our log and in its own, so two logs of one request can be compared. A record holds the
client, the path, the outcome and the number of tokens, and never the text.

A browser asks before a page of another origin may call us (a preflight, OPTIONS without a key): so CORS stands before the
Gate, and errors of the Gate reach the page as well.
"""

import re
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from minillm.server.guards import Gate, Options

ID = re.compile(rb"[!-~]{1,128}")  # ids that we repeat
NOTE = "minillm.note"  # key of a request's scope: more fields of its log record


def middlewares(options: Options) -> list[Middleware]:  # the outermost first
    cors: dict[str, Any] = {
        "allow_origins": options.cors,
        "allow_methods": ["GET", "POST"],
        "allow_headers": ["*"],
        "expose_headers": ["x-request-id", "retry-after"],
    }
    asked = [Middleware(CORSMiddleware, **cors)] if options.cors else []
    return [Middleware(Envelope, log=options.log), *asked, Middleware(Gate, options=options)]


class Envelope:
    """ASGI middleware. log: called with one dict for each request when it is over, or None."""

    def __init__(self, app: ASGIApp, log: Callable[[dict], None] | None = None) -> None:
        self.app, self.log = app, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        id = given if ID.fullmatch(given) else uuid.uuid4().hex.encode()
        note: dict = {}
        status: int | None = None
        start = time.perf_counter()
        scope[NOTE] = note

        async def labelled(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (b"x-request-id", id)]}
            await send(message)

        try:
            return await self.app(scope, receive, labelled)
        finally:
            if self.log:
                self.log(log_record(scope, id, status, time.perf_counter() - start) | note)


def log_record(scope: Scope, id: bytes, status: int | None, seconds: float) -> dict:
    """status: None where the client left before there was one."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "request_id": id.decode(),
        "client": scope["client"][0] if scope.get("client") else None,
        "method": scope["method"],
        "path": scope["path"][:200],
        "status": status,
        "duration_s": round(seconds, 6),
    }
