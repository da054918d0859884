"""One request, from its body to its last byte: whole or streamed, within its time, and cancelled when the client disconnects.

    read_json ─▶ parse ─▶ tokenize ─▶ submit each prompt ─▶ merged deltas ─▶ one JSON, or an event for each
                                      └──────────── finally: cancel every stream ────────────┘

The order of a failure decides its form. Before the first byte an error has a status, 400 to 504. Afterwards the status is
gone, so the error is an event of the stream, and no [DONE] follows it: a client cannot take half an answer for a whole one.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from minillm.engine.answer import Delta
from minillm.engine.stream import Stream
from minillm.errors import MiniLLMError, Overloaded, RequestError, Stopping, TokenizerError
from minillm.server import wire
from minillm.server.envelope import NOTE
from minillm.server.guards import Options, cancel_on_disconnect, read_json, respond
from minillm.server.protocol import Job, check_least
from minillm.server.wire import ApiError

STALLED_S = 2.0  # for a client that stopped reading to take an error


class Endpoint:
    """An endpoint for generation: parse reads a body, writer writes answers (completions or chat)."""

    def __init__(self, front: Any, parse: Callable[[Any, Any], Job], writer: type[wire.Writer]) -> None:  # front: app.Frontend
        self.front, self.parse, self.writer = front, parse, writer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        front = self.front
        if front.stopping:
            raise stopping_error()
        try:
            fields = await read_json(Request(scope, receive), front.options)
        except ClientDisconnect:
            return
        job = self.parse(fields, front.served)
        await cancel_on_disconnect(receive, self.answer_in_time(job, Reply(send, scope[NOTE])))

    async def answer_in_time(self, job: Job, reply: "Reply") -> None:
        """Answer within the time limit. Before anything is sent an error has a status; afterwards it is an event."""
        try:
            async with asyncio.timeout(self.front.options.timeout_s):
                await self.answer(job, reply)
        except Exception as bad:
            error = as_api_error(bad, self.front.options, reply.accepted)
            reply.note["error"] = error.code or error.type
            if not reply.started:
                raise error from None
            with contextlib.suppress(TimeoutError):  # and the connection is closed
                async with asyncio.timeout(STALLED_S):
                    await reply.event(error.body(), last=True)

    async def answer(self, job: Job, reply: "Reply") -> None:
        front, streams = self.front, []
        if (asked := len(job.prompts)) > (most := front.engine.max_queue):
            message = f"a call of {asked:,} prompts can never be served here: the queue holds {most:,}. Send several calls."
            raise ApiError(message, "prompt")
        prepared = [await front.prompt(prompt, job) for prompt in job.prompts]
        echoes = [await front.echo(prompt, ids, job) for prompt, (ids, _) in zip(job.prompts, prepared, strict=True)]
        try:
            for ids, max_tokens in prepared:
                check_least(job.params.min_tokens, max_tokens)
                params = replace(job.params, max_tokens=max_tokens)
                options = {"n": job.n, "user": job.user, "priority": job.priority, "adapter": job.adapter}
                streams.append(await front.engine.submit(ids, params, **options))
            reply.accepted = True
            reply.note |= {"model": job.adapter or front.served.name, "stream": job.stream}
            writer = self.writer(job.adapter or front.served.name, front.served.tokenizer.token_bytes)
            await (self.send_stream if job.stream else self.send_whole)(job, streams, echoes, writer, reply)
        finally:
            for stream in streams:
                stream.cancel()  # no effect on one that has ended

    async def send_whole(self, job: Job, streams: list[Stream], echoes: list, writer: wire.Writer, reply: "Reply") -> None:
        deltas: dict[int, list[Delta]] = {index: [] for index in range(len(streams) * job.n)}
        tokens = 0
        async for index, delta in answer_deltas(streams, job):
            deltas[index].append(delta)
            tokens += len(delta.token_ids)
            reply.note["usage"] = counts = usage_of(streams, tokens)
        choices = [writer.choice(index, ds, echoes[index // job.n]) for index, ds in deltas.items()]
        values = writer.whole(choices, counts)
        if job.prompt_scores:
            scores = [writer.prompt_logprobs(deltas[index][0].prompt_logprobs or []) for index in deltas]
            for place, found in zip([values] if job.chat else choices, scores, strict=False):
                place["prompt_logprobs"] = found  # of a chat there is one prompt, as in vLLM's answer
        await reply.whole(values)

    async def send_stream(self, job: Job, streams: list[Stream], echoes: list, writer: wire.Writer, reply: "Reply") -> None:
        more, tokens = ({"usage": None} if job.include_usage else None), 0
        async for index, delta in answer_deltas(streams, job):
            tokens += len(delta.token_ids)
            reply.note["usage"] = usage_of(streams, tokens)
            if job.usage_each:
                more = {"usage": reply.note["usage"]}
            await reply.event(writer.chunk([writer.piece(index, delta, echoes[index // job.n])], more))
        if job.include_usage:
            await reply.event(writer.chunk([], {"usage": usage_of(streams, tokens)}))
        await reply.done()


class Reply:
    """The response to one request, whole or in events. accepted: by the engine. started: its status has been sent.

    note: fields for its log record.
    """

    HEAD = [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),
    ]

    def __init__(self, send: Send, note: dict) -> None:
        self.send, self.note, self.accepted, self.started = send, note, False, False

    async def whole(self, values: object) -> None:
        body = wire.encode(values)
        self.started = True
        await respond(self.send, 200, body)

    async def event(self, values: object, last: bool = False) -> None:
        await self.write(wire.event(values), last)

    async def done(self) -> None:
        await self.write(wire.DONE, last=True)

    async def write(self, data: bytes, last: bool) -> None:
        if not self.started:
            self.started = True
            await self.send({"type": "http.response.start", "status": 200, "headers": self.HEAD})
        await self.send({"type": "http.response.body", "body": data, "more_body": not last})


async def merge_streams(streams: list[Stream], n: int) -> AsyncIterator[tuple[int, Delta]]:  # index of the choice, as they come
    """Merge the deltas of several prompts into one stream. A sequence that ends because the server stops is an error."""
    if len(streams) == 1:
        async for delta in streams[0]:
            yield delta.index, check_delta(delta)
        return
    queue: asyncio.Queue = asyncio.Queue()

    async def pump(position: int, stream: Stream) -> None:
        try:
            async for delta in stream:
                queue.put_nowait((position * n + delta.index, check_delta(delta)))
            queue.put_nowait(None)
        except Exception as error:
            queue.put_nowait(error)

    tasks = [asyncio.create_task(pump(i, stream)) for i, stream in enumerate(streams)]
    try:
        left = len(tasks)
        while left:
            if (item := await queue.get()) is None:
                left -= 1
            elif isinstance(item, Exception):
                raise item
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()


async def answer_deltas(streams: list[Stream], job: Job) -> AsyncIterator[tuple[int, Delta]]:
    """Merge the deltas of a job. Where it wants no token (max_tokens 0), the one that the engine draws is left out."""
    async for index, delta in merge_streams(streams, job.n):
        if job.max_tokens == 0:
            delta = replace(delta, text="", token_ids=[], logprobs=[], finish_reason="length", stop_reason=None)
        yield index, delta


def check_delta(delta: Delta) -> Delta:
    """Raise for a sequence that the engine has aborted."""
    if delta.finish_reason not in (None, "stop", "length"):
        raise stopping_error()
    return delta


def usage_of(streams: list[Stream], tokens: int) -> dict:
    """Count the usage of a request. The cached tokens are read at the end: a prompt may wait long before its lookup."""
    prompt = sum(len(stream.prompt_token_ids) for stream in streams)
    return wire.usage(prompt, tokens, sum(stream.cached_tokens or 0 for stream in streams))


def stopping_error() -> ApiError:
    message = "the server is stopping and takes no more requests."
    return ApiError(message, status=503, type="server_error", code="stopping", headers={"Retry-After": "5"})


def as_api_error(bad: Exception, options: Options, accepted: bool = False) -> ApiError:
    """Turn an exception into an error response. accepted: the request was good, so the failure is not the client's fault.

    An exception that is no MiniLLMError is a bug of ours: it is logged, and the client gets no details.
    """
    if isinstance(bad, ApiError):
        return bad
    if isinstance(bad, TimeoutError):
        message = f"the answer was not complete within {options.timeout_s:g} s, this server's limit; it was cancelled."
        # Clients retry after a 5xx; a request that took too long would take too long again.
        return ApiError(message, status=504, type="server_error", code="timeout", headers={"x-should-retry": "false"})
    if isinstance(bad, Overloaded):
        wait = {"Retry-After": str(max(1, math.ceil(bad.retry_after_s)))}
        return ApiError(str(bad), status=429, type="rate_limit_error", code="queue_full", headers=wait)
    if isinstance(bad, Stopping):
        return stopping_error()
    if isinstance(bad, RequestError | TokenizerError) and not accepted:
        return ApiError(str(bad))
    logging.getLogger("minillm.server").error("a request failed", exc_info=bad)
    message = str(bad) if isinstance(bad, MiniLLMError) else "the server failed on this request; its log says why."
    return ApiError(message, status=500, type="server_error", code="failed")
