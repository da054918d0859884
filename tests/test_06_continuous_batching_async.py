"""The thread boundary: a thousand streams, slow readers, early leavers, shutdown both ways, and an engine that dies."""

import asyncio
import gc
import threading
import time

import pytest
from engine_help import Spoiled, engine, greedy, small, used
from test_06_continuous_batching_engine import kinds, nan_for

from minillm.engine.answer import Delta
from minillm.engine.async_engine import AsyncEngine
from minillm.engine.stream import LAG, Stream
from minillm.errors import MiniLLMError, Overloaded, RequestError, Stopping
from minillm.metrics.events import CANCELLED, FINISHED


def served(scenario, limit_s=60, max_queue=256, one=None, **config):
    """Run a coroutine function with a started front; afterwards it is stopped, and nothing may be left behind."""

    async def main():
        front = AsyncEngine(one or engine(**config), max_queue)
        await front.start()
        try:
            return await scenario(front)
        finally:
            await front.stop(drain=False)
            assert not front.thread.is_alive()
            if front.error is None:
                assert used(front.engine) == 0 and not front.engine.running and not front.streams and not front.awaiting_first
            assert front.in_flight == 0

    return asyncio.run(asyncio.wait_for(main(), limit_s))


async def tokens(stream):
    return [token async for delta in stream for token in delta.token_ids]


async def until(condition, limit_s=20):
    """Wait for what the other thread does."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "it never happened"
        await asyncio.sleep(0.001)


def alone(prompt, params):
    return small().generate(prompt, params).token_ids


def paced(gate):
    """An engine that computes a step each time the gate is opened: gate.release()."""
    one = engine()
    one.executor.transformer = Spoiled(one.executor.transformer, spoil=lambda segments: gate.acquire(timeout=30))
    return one


def unhurried(front):
    """A hundredth of a second for each step from now on: else one pause of the test's thread sees a hundred tokens done."""
    step = front.engine.step
    front.engine.step = lambda: time.sleep(0.01) or step()


def test_streams_say_what_the_plain_loop_says():
    async def scenario(front):
        prompts = [[1, 2, 3], [4] * 30, "text"]
        streams = [await front.submit(p, greedy(8)) for p in prompts]
        assert [s.request for s in streams] == [0, 1, 2]
        assert streams[2].prompt_token_ids == [116, 101, 120, 116]
        return list(zip(prompts, await asyncio.gather(*map(tokens, streams)), strict=True))

    for prompt, said in served(scenario):
        assert said == alone(prompt, greedy(8))


def test_a_thousand_streams_at_once():
    async def one_of_them(front, i):
        params = greedy(1 + i % 3, temperature=1.0, seed=i)
        stream = await front.submit([i % 512], params)
        return await tokens(stream)

    async def scenario(front):
        said = await asyncio.gather(*(one_of_them(front, i) for i in range(1000)))
        assert front.stats()["kv_blocks_used"] == 0
        return said

    said = served(scenario, max_queue=1000, max_sequences=16)
    assert [len(s) for s in said] == [1 + i % 3 for i in range(1000)]
    for i in range(0, 1000, 97):
        assert said[i] == alone([i % 512], greedy(1 + i % 3, temperature=1.0, seed=i))


def test_n_answers_come_in_one_stream():
    async def scenario(front):
        deltas = [d async for d in await front.submit([1], greedy(5, temperature=1.0, seed=1), n=3)]
        assert [d.finish_reason for d in deltas].count("length") == 3
        return [[t for d in deltas if d.index == i for t in d.token_ids] for i in range(3)]

    three = served(scenario)
    assert len({tuple(t) for t in three}) == 3 and three[0] == alone([1], greedy(5, temperature=1.0, seed=1))


def test_cached_tokens_are_known_with_the_first_delta():
    async def scenario(front):
        found = []
        for max_tokens in (3, 3, 1):
            stream = await front.submit(list(range(21)), greedy(max_tokens))
            await anext(stream)
            found.append(stream.cached_tokens)
            await tokens(stream)
        return found

    assert served(scenario, prefix="radix") == [0, 20, 20]


def test_one_message_a_step_however_many_streams():
    messages = []

    async def scenario(front):
        deliver = front.deliver
        front.deliver = lambda batch: (messages.append(len(batch)), deliver(batch))
        streams = [await front.submit([i], greedy(20)) for i in range(8)]
        await asyncio.gather(*map(tokens, streams))
        return len(front.engine.log.events_of(-1))

    steps = served(scenario)
    assert len(messages) <= steps + 8 + 1, "one for each step, each acceptance, and the last words"
    assert sum(messages) >= 8 * 20


# --- leaving early ------------------------------------------------------------------------------------------------------------


async def by_break(stream):
    async for _ in stream:
        break


async def by_error(stream):
    with pytest.raises(ZeroDivisionError):
        async for _ in stream:
            1 / 0  # noqa: B018


async def by_cancel(stream):
    await anext(stream)
    stream.cancel()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def by_task(stream):
    began = asyncio.Event()

    async def read():
        async for _ in stream:
            began.set()

    reader = asyncio.create_task(read())
    await began.wait()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader


async def by_with(stream):
    async with stream:
        await anext(stream)


@pytest.mark.parametrize("leave", [by_break, by_error, by_cancel, by_task, by_with])
def test_leaving_early_cancels_and_frees_the_blocks_while_others_go_on(leave):
    async def scenario(front):
        unhurried(front)
        other = asyncio.create_task(tokens(await front.submit([9, 9], greedy(60))))
        stream = await front.submit([1, 2], greedy(120), n=2)
        await leave(stream)
        gc.collect()
        await until(lambda: stream.request not in front.engine.running)
        assert kinds(front.engine, stream.request)[-1] == CANCELLED
        said = await other
        await until(lambda: front.stats()["kv_blocks_used"] == 0)
        return said

    assert served(scenario) == alone([9, 9], greedy(60))


def test_a_stream_read_to_its_end_is_not_cancelled():
    async def scenario(front):
        stream = await front.submit([1], greedy(4))
        await tokens(stream)
        stream.cancel()
        await asyncio.sleep(0.02)
        assert kinds(front.engine, stream.request)[-1] == FINISHED

    served(scenario)


def test_who_is_cancelled_while_submitting_leaves_no_request_behind():
    gate = threading.Semaphore(0)

    async def scenario(front):
        first = await front.submit([1], greedy(50))  # the engine is now busy with a step that waits for the gate
        await asyncio.sleep(0.05)
        submitting = asyncio.create_task(front.submit([2], greedy(50)))
        await asyncio.sleep(0.05)
        assert not submitting.done()
        submitting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await submitting
        gate.release(1000)
        await tokens(first)
        await until(lambda: not front.engine.running)
        assert kinds(front.engine, 1)[-1] == CANCELLED

    served(scenario, one=paced(gate))


# --- slow readers -------------------------------------------------------------------------------------------------------------


def test_no_request_waits_for_a_reader_that_never_reads():
    async def scenario(front):
        sleepy = await front.submit([1, 2], greedy(126, logprobs=1), n=2)
        quick = await tokens(await front.submit([3], greedy(120)))
        await until(lambda: not front.engine.running)
        assert len(quick) == 120 and len(sleepy.unread) <= LAG + 2
        deltas = [d async for d in sleepy]
        assert sum(len(d.token_ids) for d in deltas) == 252 > LAG + 2 >= len(deltas)
        return deltas

    deltas, whole = served(scenario), small().generate([1, 2], greedy(126, logprobs=1))
    for index in range(2):
        mine = [d for d in deltas if d.index == index]
        assert [t for d in mine for t in d.token_ids] == whole.token_ids
        assert "".join(d.text for d in mine) == whole.text
        assert [t.token_id for d in mine for t in d.logprobs] == whole.token_ids
        assert [d.finish_reason for d in mine] == [None] * (len(mine) - 1) + ["length"]


def test_a_stream_holds_a_bounded_number_of_deltas():
    async def scenario():
        stream = Stream(lambda stream: None, n=3)
        for i in range(9000):
            stream.push(Delta(0, i % 3, "x", [i]))
        assert len(stream.unread) <= LAG + 3
        stream.push(Delta(0, 1, "y", [7], finish_reason="stop"))
        ones = [d for d in stream.unread if d.index == 1]
        assert [t for d in ones for t in d.token_ids] == [*range(1, 9000, 3), 7]
        assert "".join(d.text for d in ones) == "x" * 3000 + "y" and ones[-1].finish_reason == "stop"

    asyncio.run(scenario())


# --- refusals -----------------------------------------------------------------------------------------------------------------


def test_what_can_never_be_served_is_refused_at_submission():
    async def scenario(front):
        for arguments in ({"prompt": []}, {"prompt": [1], "n": 0}, {"prompt": [600]}, {"prompt": "a" * 5000}, {"prompt": 5}):
            with pytest.raises(RequestError):
                await front.submit(**arguments)
        return await tokens(await front.submit([1], greedy(3)))

    assert served(scenario) == alone([1], greedy(3))


def test_a_full_queue_refuses_with_a_time_to_swap_in_and_takes_again_later():
    gate = threading.Semaphore(0)

    async def scenario(front):
        running = [await front.submit([i], greedy(2)) for i in range(1)]
        await asyncio.sleep(0.05)  # its step waits for the gate: no other request is let in, at most 4 may wait
        tries = [asyncio.create_task(front.submit([i], greedy(2))) for i in range(7)]
        await asyncio.sleep(0.05)
        refused = [t for t in tries if t.done()]
        assert len(refused) == 3, "the commands on their way are bounded too"
        gate.release(10_000)
        results = await asyncio.gather(*tries, return_exceptions=True)
        full = [r for r in results if isinstance(r, Overloaded)]
        assert len(full) == 3 and all(1 <= e.retry_after_s <= 60 for e in full) and "4" in str(full[0])
        for stream in running + [r for r in results if not isinstance(r, Exception)]:
            assert len(await tokens(stream)) == 2
        return await tokens(await front.submit([5], greedy(2)))

    one = paced(gate)
    assert served(scenario, one=one, max_queue=4) == alone([5], greedy(2))


def test_those_who_wait_in_the_scheduler_count():
    async def scenario(front):
        unhurried(front)
        accepted, refused = [], 0
        for i in range(30):
            try:
                accepted.append(await front.submit([i], greedy(100)))
            except Overloaded as error:
                refused += 1
                assert error.retry_after_s >= 1
            assert front.engine.scheduler.num_waiting <= 3
        assert refused > 10
        for stream in accepted:
            stream.cancel()

    served(scenario, max_queue=3, max_sequences=1)


# --- the end ------------------------------------------------------------------------------------------------------------------


def test_draining_finishes_what_is_accepted_and_refuses_what_is_new():
    async def scenario(front):
        streams = [await front.submit([i], greedy(30)) for i in range(6)]
        stopping = asyncio.create_task(front.stop(drain=True))
        await asyncio.sleep(0)
        with pytest.raises(Stopping):
            await front.submit([1])
        said = await asyncio.gather(*map(tokens, streams))
        await stopping
        assert used(front.engine) == 0
        return said

    assert served(scenario, max_sequences=2) == [alone([i], greedy(30)) for i in range(6)]


def test_stopping_at_once_tells_every_stream():
    async def scenario(front):
        unhurried(front)
        streams = [await front.submit([i], greedy(120)) for i in range(6)]
        first = await anext(streams[0])
        await front.stop(drain=False)
        assert len(first.token_ids) == 1 and used(front.engine) == 0
        for stream in streams:
            with pytest.raises(Stopping):
                await tokens(stream)
        assert all(kinds(front.engine, s.request)[-1] in (CANCELLED, FINISHED) for s in streams)
        await front.stop(drain=True)  # again: nothing to do

    served(scenario, max_sequences=2)


def test_a_drain_that_takes_too_long_can_be_cut_short():
    gate = threading.Semaphore(2)

    async def scenario(front):
        stream = await front.submit([1], greedy(120))
        drain = asyncio.create_task(front.stop(drain=True))
        await asyncio.sleep(0)
        cut = asyncio.create_task(front.stop(drain=False))
        await asyncio.sleep(0)
        gate.release()  # the step that is under way ends, and none of the other hundred begins
        await cut
        await drain
        with pytest.raises(Stopping):
            await tokens(stream)

    served(scenario, one=paced(gate))


def test_an_engine_that_is_not_started_takes_nothing_and_starts_once():
    async def scenario():
        front = AsyncEngine(engine())
        with pytest.raises(Stopping):
            await front.submit([1])
        await front.stop(drain=True)

    asyncio.run(scenario())

    async def twice(front):
        with pytest.raises(MiniLLMError, match="twice"):
            await front.start()

    served(twice)


def test_an_error_of_one_request_reaches_its_stream_alone():
    one = engine()
    one.executor.transformer = Spoiled(one.executor.transformer, after=nan_for(77))

    async def scenario(front):
        good = await front.submit([1, 2], greedy(9))
        bad = await front.submit([77], greedy(9), n=2)
        with pytest.raises(RequestError, match="NaN"):
            await tokens(bad)
        return await tokens(good)

    assert served(scenario, one=one) == alone([1, 2], greedy(9))


def test_an_engine_that_dies_tells_every_request():
    one, gate, doomed = engine(), threading.Semaphore(1), threading.Event()
    schedule = one.scheduler.schedule

    def dies():
        gate.acquire(timeout=30)
        if doomed.is_set():
            raise ZeroDivisionError("a bug")
        return schedule()

    one.scheduler.schedule = dies

    async def scenario(front):
        streams = [await front.submit([0], greedy(100))]
        submitting = [asyncio.create_task(front.submit([i], greedy(100))) for i in range(2)]
        await asyncio.sleep(0)  # their commands are in the queue
        gate.release()  # one more step, after which they are accepted
        streams += await asyncio.gather(*submitting)
        doomed.set()
        gate.release()
        for stream in streams:
            with pytest.raises(MiniLLMError, match="a bug"):
                await tokens(stream)
        with pytest.raises(MiniLLMError, match="a bug"):
            await front.submit([1])
        assert used(one) == 0 and one.running == {}
        await front.stop(drain=True)

    served(scenario, one=one)


def test_who_submits_while_it_dies_is_not_left_waiting():
    gate = threading.Semaphore(0)
    one = paced(gate)
    update = one.scheduler.update
    one.scheduler.update = lambda *a: (update(*a), 1 / 0)

    async def scenario(front):
        first = await front.submit([1], greedy(50))
        await asyncio.sleep(0.05)
        late = [asyncio.create_task(front.submit([i], greedy(5))) for i in range(3)]
        await asyncio.sleep(0.05)
        gate.release(10)
        for error in await asyncio.gather(*late, tokens(first), return_exceptions=True):
            assert isinstance(error, MiniLLMError) and "division" in str(error)

    served(scenario, one=one)


def test_an_idle_engine_computes_nothing_and_knows_it_is_empty():
    async def scenario(front):
        unhurried(front)
        stream = await front.submit([1], greedy(100))
        await anext(stream)
        busy = front.stats()
        assert busy["running"] == 1 and busy["kv_blocks_used"] > 0 and busy["kv_blocks_total"] == 64
        stream.cancel()
        await until(
            lambda: front.stats() == {"running": 0, "waiting": 0, "swapped": 0, "kv_blocks_used": 0, "kv_blocks_total": 64}
        )
        steps = len(front.engine.log.events_of(-1))
        await asyncio.sleep(0.05)
        assert len(front.engine.log.events_of(-1)) == steps and front.thread.is_alive()

    served(scenario)


def test_a_long_text_is_tokenized_beside_the_loop():
    threads = []

    async def scenario(front):
        encode = front.engine.encode
        front.engine.encode = lambda prompt: (threads.append(threading.current_thread()), encode(prompt))[1]
        with pytest.raises(RequestError, match="5,000"):
            await front.submit("a" * 5000)
        await tokens(await front.submit("a" * 50, greedy(2)))

    served(scenario)
    assert threads[0] is not threading.main_thread() and threading.main_thread() in threads[1:]
