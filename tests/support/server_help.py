"""A server to talk to: an engine that says known things at a known pace, the port it listens on, and a plain client.

The fake engine keeps the interface of `minillm.engine.async_engine` and nothing else of it: no model, no scheduler, no
thread. What it says is a formula of prompt, index and seed, so a test knows every answer in advance.
"""

import asyncio
import contextlib
import http.client
import json
import socket
import threading
import time
import types

import uvicorn.server
from engine_help import engine

from minillm.engine.answer import Delta
from minillm.engine.async_engine import AsyncEngine
from minillm.errors import Overloaded, RequestError, Stopping
from minillm.model.logprobs import TokenLogprob
from minillm.model.random_model import byte_tokenizer
from minillm.model.stopping import StopStrings
from minillm.server.app import Served, create_app
from minillm.server.guards import Options
from minillm.server.listen import bind, make_server

PATIENCE_S = 30  # no call of a test may take longer

# uvicorn looks ten times a second whether it is to stop: with its own asyncio, a hundred times
uvicorn.server.asyncio = types.SimpleNamespace(**vars(asyncio) | {"sleep": lambda seconds: asyncio.sleep(min(seconds, 0.01))})
TOKENIZER = byte_tokenizer(512)
CONTEXT = 300
SERVED = Served("fake", TOKENIZER, 512, CONTEXT, created=1_700_000_000)


def say(ids, count, index=0, seed=0):
    """The answer of the fake: letters by a formula."""
    start = sum((k + 1) * i for k, i in enumerate(ids)) + 5 * index + (seed or 0)
    return "".join(chr(97 + (start + 7 * k + k * k) % 26) for k in range(count))


class FakeEngine:
    """delay: seconds before each token. queue: requests at once; beyond, Overloaded. crash: raised after crash_after tokens."""

    def __init__(self, delay=0.0, queue=10_000, crash_after=None, crash=None):
        self.delay, self.queue, self.crash_after, self.error = delay, queue, crash_after, None
        self.max_queue = 10_000
        self.crash = crash or ZeroDivisionError("a bug")
        self.adapters = []
        self.submitted, self.live, self.cancelled, self.stopping, self.started = [], {}, [], False, 0

    async def start(self):
        self.started += 1

    async def stop(self, drain=True):
        self.stopping = True
        if not drain:
            for stream in list(self.live.values()):
                stream.dead = True
        while self.live:
            await asyncio.sleep(0.005)

    async def submit(self, prompt, params=None, *, n=1, user="", priority=0, adapter=None):
        if self.stopping:
            raise Stopping("stopping")
        if len(self.live) >= self.queue:
            raise Overloaded(f"{len(self.live)} requests wait, at most {self.queue} may.", 2.5)
        if 511 in prompt:
            raise RequestError("a request that can never fit: 511 in the prompt.")
        stream = FakeStream(self, len(self.submitted), prompt, params, n)
        self.submitted.append((prompt, params, n, user, priority))
        self.adapters.append(adapter)
        self.live[stream.request] = stream
        return stream

    def longest_answer(self, prompt_tokens, n=1):
        return CONTEXT

    def stats(self):
        live = len(self.live)
        return {"running": live, "waiting": 0, "swapped": 0, "kv_blocks_used": live, "kv_blocks_total": 100}


class FakeStream:
    def __init__(self, engine, request, prompt, params, n):
        self.engine, self.request, self.prompt_token_ids, self.params, self.n = engine, request, prompt, params, n
        self.cached_tokens, self.dead = 0, False

    async def __aiter__(self):
        self.cached_tokens = len(self.prompt_token_ids) // 2
        letters = [say(self.prompt_token_ids, self.params.max_tokens, i, self.params.seed) for i in range(self.n)]
        stops = [StopStrings(self.params.stop) for _ in range(self.n)]
        try:
            for k in range(self.params.max_tokens):
                for i in range(self.n):
                    if stops[i].hit is not None:
                        continue
                    await asyncio.sleep(self.engine.delay)
                    if self.dead:
                        raise Stopping("stopped")
                    if self.engine.crash_after is not None and k >= self.engine.crash_after:
                        raise self.engine.crash
                    token, last = ord(letters[i][k]), k == self.params.max_tokens - 1
                    text = stops[i].push(letters[i][k])
                    reason = "stop" if stops[i].hit is not None else "length" if last else None
                    text += stops[i].flush() if reason == "length" else ""
                    count = self.params.logprobs
                    top = {token + j: -0.5 - j for j in range(count or 0)}
                    records = [] if count is None else [TokenLogprob(token, -0.5, top)]
                    yield Delta(self.request, i, text, [token], records, reason)
            self.engine.live.pop(self.request, None)
        finally:
            self.cancel()

    def cancel(self):
        if self.engine.live.pop(self.request, None):
            self.engine.cancelled.append(self.request)


@contextlib.contextmanager
def running(engine, served=SERVED, page=None, **options):
    """A server for an engine, in a thread. Gives its port, and the server. Always stopped, or the test fails."""
    server = make_server(create_app(engine, served, Options(**options), page))
    listener = bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started, "the server starts")
        yield port, server
    finally:
        if not server.asked:
            server.stop()
        thread.join(5)
        if thread.is_alive():
            server.stop()
            thread.join(PATIENCE_S)
        assert not thread.is_alive(), "the server did not stop"


def wait_until(condition, what, seconds=PATIENCE_S):  # -> seconds it took
    """Poll. The limit is generous: it is there so that nothing hangs."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, f"waited {seconds} s until {what}"
        time.sleep(0.002)
    return time.monotonic() - start


def call(port, method, path, body=None, headers=None):  # -> (status, headers, bytes)
    """One request on a connection of its own. body: bytes as they are, or something for JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def post(port, path, body, headers=None):  # -> (status, headers, JSON)
    status, headers, data = call(port, "POST", path, body, headers)
    return status, headers, json.loads(data)


def events(data):  # bytes of an event stream -> [JSON or "[DONE]"]
    assert data.endswith(b"\n\n"), data[-80:]
    lines = data.decode().removesuffix("\n\n").split("\n\n")
    assert all(line.startswith("data: ") for line in lines), lines
    return [line[6:] if line[6:] == "[DONE]" else json.loads(line[6:]) for line in lines]


def is_error(values, status=None):
    """Whether this is an error as OpenAI writes it."""
    error = values["error"]
    return set(error) == {"message", "type", "param", "code"} and isinstance(error["message"], str) and error["message"] != ""


def opened(port, path, body, close_after=None):  # -> socket
    """A connection on which a request was sent, and nothing was read."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    connection.sendall(head.encode() + data)
    return connection


TEXT, CHAT = "/v1/completions", "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]


def openai_client(port, **options):
    """The official client, patient, without retries."""
    import openai

    options = {"api_key": "unused", "timeout": PATIENCE_S, "max_retries": 0, **options}
    return openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", **options)


def served(llm=None, max_queue=256, **config):
    """A server of a small model: use as `with served() as (port, server)`."""
    core = engine(llm, **config)
    pool_tokens = core.config.num_blocks * core.config.block_size
    return running(AsyncEngine(core, max_queue), Served.from_llm(core.llm, "small", pool_tokens))
