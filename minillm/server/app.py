"""The server: OpenAI's HTTP interface over an engine.

    client ──POST──▶ parse and check ─▶ tokenize ─▶ engine.submit ─▶ Stream of Delta ─▶ one JSON, or one SSE chunk per token
           ◀─429─── the queue is full      ◀─400─── it can never fit          client hangs up ─▶ cancel ─▶ blocks are free

One thread runs this event loop, another the engine; between them stands the AsyncEngine. Overload is answered by *load
shedding*: a full queue gets 429 with Retry-After, too many connections get 503. Every way in which a request can end (its last
token, an error, a time limit, a client that disconnects, a shutdown) passes through one `finally` that cancels its streams, so
no path leaks KV blocks.

    app = create_app(AsyncEngine(engine), Served.from_llm(llm, "smollm2-135m"))
"""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from minillm import __version__
from minillm.engine.async_engine import AsyncEngine
from minillm.errors import MiniLLMError, ModelError
from minillm.llm import LLM
from minillm.model.generate import prompt_ids
from minillm.model.tokenizer import Tokenizer
from minillm.server import wire
from minillm.server.endpoint import Endpoint, as_api_error
from minillm.server.envelope import middlewares
from minillm.server.guards import Options
from minillm.server.metrics_page import MetricsPage
from minillm.server.protocol import Job, parse_chat, parse_completion
from minillm.server.tokens import TokenEndpoints, make_echo
from minillm.server.wire import ApiError, Echo

CHARACTERS_PER_TOKEN = 16  # English has 4 or 5, source code with deep indentation 10
DEFAULT_COMPLETION = 16  # tokens where a client says nothing: OpenAI's; a chat goes on to the end of the context


@dataclass(frozen=True)
class Served:
    """The model that a server serves. max_length: tokens of a prompt with its answer, by the context or the KV pool.

    adapters: names of the LLM's adapters. To clients each is a model of its own, as in vLLM.
    sampling: default keywords of SamplingParams (model/defaults.py); what is not among them has OpenAI's defaults.
    """

    name: str
    tokenizer: Tokenizer
    vocab_size: int
    max_length: int
    by_priority: bool = False
    created: int = 0
    adapters: tuple[str, ...] = ()
    sampling: dict = field(default_factory=dict)

    @classmethod
    def from_llm(
        cls, llm: LLM, name: str, pool_tokens: float = math.inf, by_priority: bool = False, sampling: dict | None = None
    ) -> "Served":
        """Describe an LLM. pool_tokens: what its KV pool holds."""
        limit = int(min(llm.config.context_length, pool_tokens))
        if name in llm.adapters:
            raise ModelError(f"an adapter needs a name other than the model's; found {name!r} for both.")
        tokenizer, created = llm.tokenizer, int(time.time())
        return cls(name, tokenizer, tokenizer.vocab_size, limit, by_priority, created, tuple(llm.adapters), sampling or {})

    @property
    def names(self) -> tuple[str, ...]:
        """The names that a client may give as the model."""
        return (self.name, *self.adapters)

    def unknown(self, found: str) -> ApiError:
        names = ", ".join(map(repr, self.names))
        message = f"this server has the model{'s' if self.adapters else ''} {names}, found {found}."
        return ApiError(message, "model", "model_not_found", status=404)


def create_app(engine: AsyncEngine, served: Served, options: Options | None = None, page: MetricsPage | None = None) -> Starlette:
    """Make the ASGI application. It starts and stops the engine with itself. page: for /metrics."""
    front = Frontend(engine, served, options or Options(), page)
    tokens = TokenEndpoints(front)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await engine.start()
        try:
            yield
        finally:
            await engine.stop(drain=False)
            front.tokenizing.shutdown(wait=False, cancel_futures=True)

    routes = [
        Route("/v1/models", front.models),
        Route("/v1/models/{name:path}", front.model),
        Route("/v1/completions", Endpoint(front, parse_completion, wire.TextWriter), methods=["POST"]),
        Route("/v1/chat/completions", Endpoint(front, parse_chat, wire.ChatWriter), methods=["POST"]),
        Route("/tokenize", tokens.tokenize, methods=["POST"]),
        Route("/detokenize", tokens.detokenize, methods=["POST"]),
        Route("/tokenizer_info", tokens.info),
        Route("/health", front.health),
        Route("/version", front.version),
        Route("/metrics", front.metrics),
    ]
    handlers = {HTTPException: on_http_error, MiniLLMError: front.on_error, Exception: front.on_error}
    app = Starlette(routes=routes, middleware=middlewares(front.options), exception_handlers=handlers, lifespan=lifespan)
    app.state.front = front
    return app


def check_length(prompt: str | list, what: str, limit: int) -> None:  # text, ids or messages
    """Reject a prompt that is certainly too long, before it costs the time of a tokenizer: for such texts, seconds."""
    texts = [prompt] if isinstance(prompt, str) else [m["content"] for m in prompt if isinstance(m, dict)]
    if (found := sum(map(len, texts))) > (most := CHARACTERS_PER_TOKEN * limit):
        message = (
            f"the {what} has {found:,} characters; this server holds {limit:,} tokens, and takes {most:,} characters for them."
        )
    elif len(texts) > limit:
        message = f"there are {len(texts):,} messages; this server holds {limit:,} tokens."
    else:
        return
    raise ApiError(message, what, "context_length_exceeded")


class Frontend:
    """The state that all requests share, and the small endpoints."""

    def __init__(self, engine: AsyncEngine, served: Served, options: Options, page: MetricsPage | None) -> None:
        self.engine, self.served, self.options, self.page = engine, served, options, page
        self.stopping = False
        # Tokenizing a long prompt takes long: not on the event loop. One thread: waiting prompts are easily cancelled.
        self.tokenizing = ThreadPoolExecutor(1, thread_name_prefix="tokenize")

    async def prompt(self, prompt: str | list, job: Job) -> tuple[list[int], int]:  # text, ids or messages -> ids, max_tokens
        """Tokenize a prompt, and find how many tokens may follow. ApiError where both together exceed the limit."""
        served, limit, what = self.served, self.served.max_length, "messages" if job.chat else "prompt"
        self.check_length(prompt)
        tokenizer = served.tokenizer
        encode: Callable[..., list[int]] = tokenizer.apply_chat_template if job.chat else partial(prompt_ids, tokenizer)
        ids = await self.in_thread(partial(encode, prompt))
        rest = limit - len(ids)
        if rest < 1:
            message = f"the {what} takes {len(ids):,} tokens; this server holds {limit:,}, and one must be left for the answer."
            raise ApiError(message, what, "context_length_exceeded")
        if job.max_tokens is not None and job.max_tokens > rest:
            message = (
                f"the {what} takes {len(ids):,} tokens and max_tokens is {job.max_tokens:,}, {len(ids) + job.max_tokens:,} "
                f"together; this server holds {limit:,}."
            )
            raise ApiError(message, what, "context_length_exceeded")
        most = min(rest, max(1, self.engine.longest_answer(len(ids), job.n)))  # n answers share the pool
        if job.max_tokens is None:
            return ids, most if job.chat else min(most, DEFAULT_COMPLETION)
        return ids, max(1, job.max_tokens)  # an echo alone: the engine draws a token, which is left out

    async def echo(self, prompt: str | list, ids: list[int], job: Job) -> Echo | None:
        """Make the echo of a prompt, where the job wants one."""
        if not job.echo:
            return None
        scored = job.params.logprobs is not None
        return await self.in_thread(partial(make_echo, self.served.tokenizer, prompt, ids, scored))

    def check_length(self, prompt: str | list) -> None:
        """Reject a prompt that is certainly too long (see check_length)."""
        messages = isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], dict)
        check_length(prompt, "messages" if messages else "prompt", self.served.max_length)

    async def in_thread(self, work: Callable[[], Any]) -> Any:
        """Do the work of a tokenizer in the thread for it."""
        return await asyncio.get_running_loop().run_in_executor(self.tokenizing, work)

    async def models(self, request: Request) -> Response:
        return json_response({"object": "list", "data": [self.card(name) for name in self.served.names]})

    async def model(self, request: Request) -> Response:
        if (name := request.path_params["name"]) not in self.served.names:
            raise self.served.unknown(repr(name[:100]))
        return json_response(self.card(name))

    def card(self, name: str) -> dict:
        served = self.served
        parent = {"parent": served.name} if name in served.adapters else {}
        return {"id": name, "object": "model", "created": served.created, "owned_by": "minillm",
                "max_model_len": served.max_length, **parent}  # fmt: skip

    async def health(self, request: Request) -> Response:
        """Answer 200 while requests are accepted, else 503: a load balancer then sends them elsewhere."""
        status = "failed" if self.engine.error else "stopping" if self.stopping else "ok"
        return json_response({"status": status}, 200 if status == "ok" else 503)

    async def version(self, request: Request) -> Response:
        return json_response({"version": __version__})

    async def metrics(self, request: Request) -> Response:
        if self.page is None:
            raise ApiError("this server keeps no metrics.", status=404)
        return Response(self.page.render(self.engine.stats()), media_type=self.page.media_type)

    async def on_error(self, request: Request, bad: Exception) -> Response:
        """Answer an error that Endpoint did not turn into a response."""
        return error_response(as_api_error(bad, self.options))


async def on_http_error(request: Request, bad: Any) -> Response:  # HTTPException
    """Answer a path that does not exist, or not with this method."""
    message = f"{request.method} {request.url.path[:100]}: {bad.detail}."
    return error_response(ApiError(message, status=bad.status_code, headers=bad.headers))


def json_response(values: object, status: int = 200) -> Response:
    return Response(wire.encode(values), status, media_type="application/json")


def error_response(error: ApiError) -> Response:
    return Response(wire.encode(error.body()), error.status, error.headers, media_type="application/json")
