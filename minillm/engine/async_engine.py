"""The thread boundary: one thread computes steps, one event loop talks to everybody.

A step is milliseconds of arithmetic; an event loop must never wait that long, and a thousand connections must not be a
thousand threads. So there are exactly two, and each thing belongs to one of them:

    event loop                                              engine thread
    submit ──┐                                              ┌─▶ add, cancel         between two steps
    cancel ──┴──▶ commands: a thread-safe queue ────────────┘   step
    streams ◀──── one call_soon_threadsafe for each step ◀────  all deltas of the step

Engine and scheduler are touched by the engine thread alone, streams by the loop alone: no lock, and nothing to forget to
lock. Compiled kernels and NumPy's large operations release the interpreter's lock, so the loop runs while a step computes.
What crosses is one message per step and not one per token: waking an event loop costs as much as several tokens' work.

The engine never waits for a reader (stream.py says what becomes of a slow one), and the queue of those who wait is bounded:
beyond max_queue a request is refused at once, with a time to come back. Waiting longer than a client will is worth nothing.

One trap: a thread that has run compiled kernels keeps OpenMP's helpers, and two such threads share the cores badly. So the
loop's thread should run no model of its own beside the engine (model/load.py lends its first steps to a passing thread).
"""

import asyncio
import queue
import threading
import time
from collections import deque
from contextlib import suppress

from minillm.engine.stream import Stream
from minillm.errors import MiniLLMError, Overloaded, Stopping
from minillm.metrics.events import CACHED
from minillm.scheduler.config import longest_answer

LONG = 4000  # characters of a prompt beyond which it is tokenized in a thread of its own
MOST_PATIENCE_S = 60.0


class AsyncEngine:
    """Submit from coroutines of one event loop; the engine runs in a thread of its own between `start` and `stop`.

    max_queue: requests that may wait for their first step. Errors of `submit`: RequestError, Overloaded, Stopping, and
    MiniLLMError where the engine has died. From `start` on nobody else may touch the engine.
    """

    def __init__(self, engine, max_queue=256):
        if max_queue < 1:
            raise MiniLLMError(f"max_queue, the requests that may wait, must be at least 1, found {max_queue}.")
        self.engine, self.max_queue = engine, max_queue
        self.commands = queue.SimpleQueue()  # (function, arguments) for the engine thread
        # the loop's own
        self.loop = self.thread = self.error = None
        self.stopping, self.in_flight, self.ended = False, 0, asyncio.Event()
        # the engine thread's own
        self.streams, self.unmet = {}, set()  # request -> Stream; requests without a delta so far
        self.outbox = []  # (function, arguments) for the loop
        self.draining, self.finish_times = False, deque(maxlen=32)
        self.now = self.measured()  # made by the engine thread, read by the loop: replaced as a whole

    # --- in the event loop -----------------------------------------------------------------------------------------------

    async def start(self):
        """Start the engine thread."""
        if self.thread is not None:
            raise MiniLLMError("the engine has been started already; make a new one instead of starting it twice.")
        self.loop = asyncio.get_running_loop()
        self.thread = threading.Thread(target=self.work, name="engine", daemon=True)
        self.thread.start()

    async def stop(self, drain=True):
        """Refuse what is new. drain: finish what is accepted; else cancel it, and its streams raise Stopping."""
        self.stopping = True
        if self.thread is not None:
            self.commands.put((self.shut, (drain,)))
            await self.ended.wait()
            self.thread.join()

    async def submit(self, prompt, params=None, *, n=1, user="", priority=0, salt=None, truncate=None, adapter=None):
        """Hand in a request, as to Engine.add -> Stream. Returns when it is accepted, which is before it is computed."""
        self.check_open()
        if self.in_flight >= self.max_queue:
            raise self.overloaded(self.in_flight, 1.0)
        self.in_flight += 1
        stream, reply = None, self.loop.create_future()
        try:
            if isinstance(prompt, str) and len(prompt) > LONG:
                prompt = await asyncio.to_thread(self.engine.encode, prompt)
                self.check_open()
            else:
                prompt = self.engine.encode(prompt)
            stream = Stream(self.give_up, n)
            options = {"n": n, "user": user, "priority": priority, "salt": salt, "truncate": truncate, "adapter": adapter}
            self.commands.put((self.accept, (stream, reply, prompt, params, options)))
            return await reply
        except asyncio.CancelledError:
            if stream:
                stream.cancel()  # the command is on its way: this one comes after it
            raise
        finally:
            self.in_flight -= 1

    def longest_answer(self, prompt_tokens, n=1):  # -> tokens that each of n answers may have
        """What a request that does not say may be given; from limits that never change, so from any thread."""
        return longest_answer(prompt_tokens, n, self.engine.config)

    def stats(self):  # -> dict
        """Requests running, waiting and swapped out, and blocks of the KV cache, as of the last step."""
        return dict(self.now)

    def check_open(self):
        if self.error is not None:
            raise MiniLLMError(str(self.error)) from self.error
        if self.stopping or self.thread is None:
            raise Stopping("the engine is shutting down and takes no more requests." if self.thread else "not started yet.")

    def give_up(self, stream):
        """A stream was left early."""
        self.commands.put((self.cancel, (stream,)))

    def deliver(self, messages):
        for function, arguments in messages:
            function(*arguments)

    def last_words(self, error):
        """The engine thread has ended. Whoever is on the way to it is told so here: nobody else puts commands."""
        self.error, self.stopping = error, True
        while True:
            try:
                function, arguments = self.commands.get_nowait()
            except queue.Empty:
                break
            if function == self.accept:
                refuse(arguments[1], error or Stopping("the engine is shutting down and takes no more requests."))
        self.ended.set()

    # --- in the engine thread --------------------------------------------------------------------------------------------

    def work(self):
        """Commands, a step, a message to the loop; until told to stop."""
        error = None
        try:
            while self.obey():
                self.post()  # the last step's deltas, and who was accepted or refused since: nobody waits for the next step
                if self.engine.has_work:
                    self.hand_out(self.engine.step())
        except Exception as cause:
            error = MiniLLMError(f"the engine has failed and was stopped: {type(cause).__name__}: {cause}")
            error.__cause__ = cause
        for request, stream in list(self.streams.items()):
            with suppress(Exception):  # whatever broke it, the others must hear of it
                self.engine.cancel(request)
            own = MiniLLMError(str(error)) if error else Stopping("the engine was stopped before the answer was complete.")
            self.outbox.append((stream.fail, (own,)))
        self.outbox.append((self.last_words, (error,)))
        self.post()

    def obey(self):  # -> whether to go on
        """Carry out all commands that are there; where there is nothing else to do, wait for one."""
        wait = not self.engine.has_work and not self.outbox
        if wait and self.draining:
            return False
        with suppress(queue.Empty):
            while True:
                function, arguments = self.commands.get(block=wait)
                function(*arguments)
                wait = False
        return True

    def accept(self, stream, reply, prompt, params, options):
        """The command of `submit`."""
        waiting = self.engine.scheduler.num_waiting
        try:
            if waiting >= self.max_queue:
                raise self.overloaded(waiting, self.patience(waiting))
            stream.request = self.engine.add(prompt, params, **options)
        except Exception as error:
            self.outbox.append((refuse, (reply, error)))
            return
        stream.prompt_token_ids = self.engine.running[stream.request].answers[0].prompt_token_ids
        self.streams[stream.request] = stream
        self.unmet.add(stream.request)
        self.outbox.append((resolve, (reply, stream)))

    def cancel(self, stream):
        """The command of a stream that was left."""
        if self.streams.pop(stream.request, None):
            self.unmet.discard(stream.request)
            self.engine.cancel(stream.request)

    def shut(self, drain):
        """The command of `stop`."""
        self.draining = True
        if not drain:
            for request, stream in list(self.streams.items()):
                self.engine.cancel(request)
                error = Stopping("the engine was stopped before the answer was complete.")
                self.outbox.append((stream.fail, (error,)))
            self.streams.clear()
            self.unmet.clear()

    def hand_out(self, deltas):
        """The deltas of a step, each to its stream."""
        for delta in deltas:
            request = delta.request
            if request not in self.streams:
                continue
            if request in self.unmet:
                self.unmet.remove(request)
                cached = next((e.tokens for e in self.engine.log.of(request) if e.kind == CACHED), 0)
                self.outbox.append((setattr, (self.streams[request], "cached_tokens", cached)))
            self.outbox.append((self.streams[request].push, (delta,)))
        for request in {delta.request for delta in deltas} - self.engine.running.keys():
            self.streams.pop(request, None)
            self.finish_times.append(time.monotonic())

    def post(self):
        """One message to the loop, with all that happened since the last."""
        self.now = self.measured()
        messages, self.outbox = self.outbox, []
        if messages:
            with suppress(RuntimeError):  # the loop is closed: nobody is left to listen
                self.loop.call_soon_threadsafe(self.deliver, messages)

    def measured(self):  # -> dict
        scheduler = self.engine.scheduler
        return {
            "running": scheduler.num_running,
            "waiting": scheduler.num_waiting,
            "swapped": scheduler.num_swapped,
            "kv_blocks_used": scheduler.pool.num_blocks - scheduler.pool.num_free,
            "kv_blocks_total": scheduler.pool.num_blocks,
        }

    def patience(self, waiting):  # -> seconds until those who wait now have been served, at the pace of the last 32
        ends = self.finish_times
        if len(ends) < 2 or ends[-1] <= ends[0]:
            return 1.0
        return min(MOST_PATIENCE_S, max(1.0, waiting * (ends[-1] - ends[0]) / (len(ends) - 1)))

    def overloaded(self, waiting, retry_after_s):
        return Overloaded(f"{waiting:,} requests wait already, at most {self.max_queue:,} may.", retry_after_s)


def resolve(reply, value):
    if not reply.done():  # its coroutine may have been cancelled
        reply.set_result(value)


def refuse(reply, error):
    if not reply.done():
        reply.set_exception(error)
