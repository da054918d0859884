"""What a caller holds of a request: an asynchronous iterator of deltas, with a bounded buffer, that can be cancelled.

    async for delta in stream: ...        leaving the loop early, by break, error or cancellation, cancels the request

A reader can be slow: a client on a bad line, for minutes. The engine does not wait for it: here *backpressure* stops, since a
step serves all requests. Unread deltas wait in a buffer of at most LAG; beyond that a new one is merged into the last of the
same answer. So a stream never holds more than LAG + n deltas, and their tokens are at most the request's n · max_tokens.

Everything here happens in the thread of the event loop; nothing is locked.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import cast

from minillm.engine.answer import Delta

LAG = 64  # deltas that may wait one by one


class Stream:
    """The answers to one request. request: its number. cached_tokens: of its prompt; known when the first delta is there.

    Iterate once, or call `cancel`, or use it as `async with`: a stream that is dropped unread would be computed to its end.
    Iteration raises the error that ended the request: Stopping, or an error of the model.
    """

    def __init__(self, on_cancel: Callable[["Stream"], object], n: int) -> None:
        self.request, self.cached_tokens = -1, 0
        self.prompt_token_ids: list[int] = []
        self.on_cancel, self.open = on_cancel, n  # open: answers that are not complete
        self.unread: deque[Delta] = deque()
        self.news, self.error = asyncio.Event(), cast(Exception | None, None)

    async def __aiter__(self) -> AsyncIterator[Delta]:
        try:
            while True:
                yield await anext(self)
        except StopAsyncIteration:
            return
        finally:
            self.cancel()

    async def __anext__(self) -> Delta:
        while not self.unread:
            if self.error is not None:
                raise self.error
            if not self.open:
                raise StopAsyncIteration
            self.news.clear()
            await self.news.wait()
        return self.unread.popleft()

    async def __aenter__(self) -> "Stream":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()

    def cancel(self) -> None:
        """Cancel the request, if it is not done: its blocks are free before the next step, and iteration ends."""
        if self.open:
            self.open = 0
            self.unread.clear()
            self.news.set()
            self.on_cancel(self)

    # --- called by the AsyncEngine ---------------------------------------------------------------------------------------

    def push(self, delta: Delta) -> None:
        """Add a delta to the buffer of unread ones."""
        if not self.open:
            return
        if delta.error is not None:
            self.fail(delta.error)
            return
        self.open -= delta.finish_reason is not None
        self.news.set()
        if len(self.unread) >= LAG:
            for i in range(len(self.unread) - 1, -1, -1):
                if self.unread[i].index == delta.index:
                    self.unread[i] = merge_deltas(self.unread[i], delta)
                    return
        self.unread.append(delta)

    def fail(self, error: Exception) -> None:
        """End the stream by an error; earlier deltas can still be read."""
        if self.open:
            self.open, self.error = 0, error
            self.news.set()


def merge_deltas(first: Delta, second: Delta) -> Delta:
    """Merge two deltas of an answer. The first one's lists are extended, so merging many costs no more than their tokens."""
    first.token_ids.extend(second.token_ids)
    first.logprobs.extend(second.logprobs)
    text = first.text + second.text
    return replace(first, text=text, finish_reason=second.finish_reason, stop_reason=second.stop_reason)
