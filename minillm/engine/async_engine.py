"""The thread boundary: one thread computes steps, one event loop serves all clients.

A step is milliseconds of arithmetic; an event loop must never wait that long, and a thousand connections must not be a
thousand threads. So there are exactly two, and each thing belongs to one of them:

    event loop                                              engine thread
    submit ──┐                                              ┌─▶ add, cancel         between two steps
    cancel ──┴──▶ commands: a thread-safe queue ────────────┘   step
    streams ◀──── one call_soon_threadsafe for each step ◀────  all deltas of the step

Engine and scheduler are touched by the engine thread alone, streams by the loop alone: so no lock is needed. Compiled kernels
and NumPy's large operations release the interpreter's lock, so the loop runs while a step computes. What crosses is one
message per step and not one per token: waking an event loop costs as much as several tokens' work.

The engine never waits for a reader (stream.py bounds what a slow one can hold). *Load shedding*: the waiting queue is
bounded, and a request beyond max_queue is rejected at once, with a time after which to retry. That is *backpressure*: clients
slow down, and the queue never gets longer than they are willing to wait.

One trap: a thread that has run compiled kernels keeps OpenMP's worker threads, and two such threads share the cores badly. So
the loop's thread should run no model of its own beside the engine (model/load.py makes its first steps in a temporary thread).
"""

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from contextlib import suppress

from minillm.engine.answer import Delta
from minillm.engine.engine import Engine
from minillm.engine.stream import Stream
from minillm.errors import MiniLLMError, Overloaded, Stopping
from minillm.metrics.events import CACHED
from minillm.model.generate import Prompt
from minillm.model.params import SamplingParams
from minillm.scheduler.config import longest_answer

LONG_PROMPT = 4000  # characters of a prompt beyond which it is tokenized in a thread of its own
MAX_RETRY_AFTER_S = 60.0

Message = tuple[Callable, tuple]  # a function and its arguments, for the other thread


class AsyncEngine:
    """Submit from coroutines of one event loop; the engine runs in a thread of its own between `start` and `stop`.

    max_queue: requests that may wait for their first step. Errors of `submit`: RequestError, Overloaded, Stopping, and
    MiniLLMError where the engine has died. From `start` on, use the engine only through this class.
    """

    def __init__(self, engine: Engine, max_queue: int = 256) -> None:
        if max_queue < 1:
            raise MiniLLMError(f"max_queue, the requests that may wait, must be at least 1, found {max_queue}.")
        self.engine, self.max_queue = engine, max_queue
        self.commands: queue.SimpleQueue[Message] = queue.SimpleQueue()  # for the engine thread
        # owned by the loop
        self.loop: asyncio.AbstractEventLoop
        self.thread: threading.Thread | None = None
        self.error: Exception | None = None
        self.stopping, self.in_flight, self.ended = False, 0, asyncio.Event()
        # owned by the engine thread
        self.streams: dict[int, Stream] = {}  # by request
        self.awaiting_first: set[int] = set()  # requests without a delta so far
        self.outbox: list[Message] = []  # for the loop
        self.draining = False
        self.finish_times: deque[float] = deque(maxlen=32)
        self.now = self.gauges()  # made by the engine thread, read by the loop: replaced as a whole

    # --- in the event loop -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the engine thread."""
        if self.thread is not None:
            raise MiniLLMError("the engine has been started already; make a new one instead of starting it twice.")
        self.loop = asyncio.get_running_loop()
        self.thread = threading.Thread(target=self.run_loop, name="engine", daemon=True)
        self.thread.start()

    async def stop(self, drain: bool = True) -> None:
        """Refuse new requests. drain: finish accepted ones; else cancel them, and their streams raise Stopping."""
        self.stopping = True
        if self.thread is not None:
            self.commands.put((self.shutdown, (drain,)))
            await self.ended.wait()
            self.thread.join()

    async def submit(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        n: int = 1,
        user: str = "",
        priority: float = 0,
        salt: Hashable = None,
        truncate: str | None = None,
        adapter: str | None = None,
    ) -> Stream:
        """Submit a request, as to Engine.add -> Stream. Returns when it is accepted, before it is computed.

        Load shedding: raises Overloaded, with a time to retry after, where max_queue requests wait already.
        """
        self.check_open()
        if self.in_flight >= self.max_queue:
            raise self.overload_error(self.in_flight, 1.0)
        self.in_flight += 1
        stream, reply = None, self.loop.create_future()
        try:
            if isinstance(prompt, str) and len(prompt) > LONG_PROMPT:
                prompt = await asyncio.to_thread(self.engine.encode, prompt)
                self.check_open()
            else:
                prompt = self.engine.encode(prompt)
            stream = Stream(self.abort, n)
            options = {"n": n, "user": user, "priority": priority, "salt": salt, "truncate": truncate, "adapter": adapter}
            self.commands.put((self.accept, (stream, reply, prompt, params, options)))
            return await reply
        except asyncio.CancelledError:
            if stream:
                stream.cancel()  # the command is on its way: this one comes after it
            raise
        finally:
            self.in_flight -= 1

    def longest_answer(self, prompt_tokens: int, n: int = 1) -> int:  # tokens that each of n answers may have
        """Find the longest answer that fits, for requests without max_tokens. The limits never change: any thread may ask."""
        return longest_answer(prompt_tokens, n, self.engine.config)

    def stats(self) -> dict[str, int]:
        """Gauges as of the last step: requests running, waiting and swapped out, and blocks of the KV cache."""
        return dict(self.now)

    def check_open(self) -> None:
        if self.error is not None:
            raise MiniLLMError(str(self.error)) from self.error
        if self.stopping or self.thread is None:
            raise Stopping("the engine is shutting down and takes no more requests." if self.thread else "not started yet.")

    def abort(self, stream: Stream) -> None:
        """Abort the request of a stream that its reader has left."""
        self.commands.put((self.cancel, (stream,)))

    def deliver(self, messages: list[Message]) -> None:
        for function, arguments in messages:
            function(*arguments)

    def fail_pending(self, error: Exception | None) -> None:
        """Fail all requests that the engine thread has not seen: it has ended. Runs in the loop, which alone puts commands."""
        self.error, self.stopping = error, True
        while True:
            try:
                function, arguments = self.commands.get_nowait()
            except queue.Empty:
                break
            if function == self.accept:
                set_exception(arguments[1], error or Stopping("the engine is shutting down and takes no more requests."))
        self.ended.set()

    # --- in the engine thread --------------------------------------------------------------------------------------------

    def run_loop(self) -> None:
        """Run the engine thread: commands, a step, a message to the loop; until told to stop."""
        error = None
        try:
            while self.run_commands():
                self.flush()  # the last step's deltas, and replies since: they do not wait for the next step
                if self.engine.has_work:
                    self.dispatch(self.engine.step())
        except Exception as cause:
            error = MiniLLMError(f"the engine has failed and was stopped: {type(cause).__name__}: {cause}")
            error.__cause__ = cause
        for request, stream in list(self.streams.items()):
            with suppress(Exception):  # the engine may be broken; the other streams must still be told
                self.engine.cancel(request)
            own = MiniLLMError(str(error)) if error else Stopping("the engine was stopped before the answer was complete.")
            self.outbox.append((stream.fail, (own,)))
        self.outbox.append((self.fail_pending, (error,)))
        self.flush()

    def run_commands(self) -> bool:  # whether to go on
        """Run all queued commands; where there is nothing else to do, wait for one."""
        wait = not self.engine.has_work and not self.outbox
        if wait and self.draining:
            return False
        with suppress(queue.Empty):
            while True:
                function, arguments = self.commands.get(block=wait)
                function(*arguments)
                wait = False
        return True

    def accept(
        self, stream: Stream, reply: asyncio.Future, prompt: list[int], params: SamplingParams | None, options: dict
    ) -> None:
        """Add a request to the engine: the command of `submit`. Rejects it where the waiting queue is full."""
        waiting = self.engine.scheduler.num_waiting
        try:
            if waiting >= self.max_queue:
                raise self.overload_error(waiting, self.retry_after(waiting))
            stream.request = self.engine.add(prompt, params, **options)
        except Exception as error:
            self.outbox.append((set_exception, (reply, error)))
            return
        stream.prompt_token_ids = self.engine.running[stream.request].answers[0].prompt_token_ids
        self.streams[stream.request] = stream
        self.awaiting_first.add(stream.request)
        self.outbox.append((set_result, (reply, stream)))

    def cancel(self, stream: Stream) -> None:
        """Cancel a request in the engine: the command of `abort`."""
        if self.streams.pop(stream.request, None):
            self.awaiting_first.discard(stream.request)
            self.engine.cancel(stream.request)

    def shutdown(self, drain: bool) -> None:
        """Shut down: the command of `stop`. drain: finish what is accepted, else cancel it."""
        self.draining = True
        if not drain:
            for request, stream in list(self.streams.items()):
                self.engine.cancel(request)
                error = Stopping("the engine was stopped before the answer was complete.")
                self.outbox.append((stream.fail, (error,)))
            self.streams.clear()
            self.awaiting_first.clear()

    def dispatch(self, deltas: list[Delta]) -> None:
        """Dispatch the deltas of a step, each to its stream."""
        for delta in deltas:
            request = delta.request
            if request not in self.streams:
                continue
            if request in self.awaiting_first:
                self.awaiting_first.remove(request)
                cached = next((e.tokens for e in self.engine.log.events_of(request) if e.kind == CACHED), 0)
                self.outbox.append((setattr, (self.streams[request], "cached_tokens", cached)))
            self.outbox.append((self.streams[request].push, (delta,)))
        for request in {delta.request for delta in deltas} - self.engine.running.keys():
            self.streams.pop(request, None)
            self.finish_times.append(time.monotonic())

    def flush(self) -> None:
        """Send one message to the loop, with all that happened since the last."""
        self.now = self.gauges()
        messages, self.outbox = self.outbox, []
        if messages:
            with suppress(RuntimeError):  # the loop is closed
                self.loop.call_soon_threadsafe(self.deliver, messages)

    def gauges(self) -> dict[str, int]:
        scheduler = self.engine.scheduler
        return {
            "running": scheduler.num_running,
            "waiting": scheduler.num_waiting,
            "swapped": scheduler.num_swapped,
            "kv_blocks_used": scheduler.pool.num_blocks - scheduler.pool.num_free,
            "kv_blocks_total": scheduler.pool.num_blocks,
        }

    def retry_after(self, waiting: int) -> float:  # seconds until the waiting requests are served, at the rate of the last 32
        ends = self.finish_times
        if len(ends) < 2 or ends[-1] <= ends[0]:
            return 1.0
        return min(MAX_RETRY_AFTER_S, max(1.0, waiting * (ends[-1] - ends[0]) / (len(ends) - 1)))

    def overload_error(self, waiting: int, retry_after_s: float) -> Overloaded:
        return Overloaded(f"{waiting:,} requests wait already, at most {self.max_queue:,} may.", retry_after_s)


def set_result(reply: asyncio.Future, value: object) -> None:
    if not reply.done():  # its coroutine may have been cancelled
        reply.set_result(value)


def set_exception(reply: asyncio.Future, error: Exception) -> None:
    if not reply.done():
        reply.set_exception(error)
