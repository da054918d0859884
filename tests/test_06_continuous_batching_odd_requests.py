"""Odd requests that are not wrong, and wrong ones: too many prompts, a pool to share, empty text, rows without a token."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from engine_help import SMALL, engine, greedy, small
from hypothesis import given
from hypothesis import strategies as st
from server_help import CHAT, CONTEXT, HELLO, TEXT, TOKENIZER, FakeEngine, is_error, post, running, served
from server_help import openai_client as client

from minillm import LLM, SamplingParams
from minillm.engine.async_engine import AsyncEngine
from minillm.errors import RequestError
from minillm.model.random_model import byte_tokenizer, random_model
from minillm.scheduler.config import SchedulerConfig, longest_answer, max_blocks
from minillm.scheduler.request import Request
from minillm.server.app import Served

openai = pytest.importorskip("openai", reason="the official client is not installed: pip install openai")


# --- queue and pool ---------------------------------------------------------------------------------------------------------


def test_a_call_of_more_prompts_than_the_queue_holds_is_a_400_with_both_numbers():
    with served(max_queue=4, max_sequences=2) as (port, _):
        status, headers, values = post(port, TEXT, {"prompt": ["a"] * 5, "max_tokens": 2})
        assert status == 400 and is_error(values) and "5" in values["error"]["message"] and "4" in values["error"]["message"]
        assert "retry-after" not in headers, "to come back will not help"
        status, _, values = post(port, TEXT, {"prompt": ["a"] * 4, "max_tokens": 2})
        assert status == 200 and len(values["choices"]) == 4, "as many as the queue holds always fit an idle server"


@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 30), st.sampled_from([1, 4, 16]), st.sampled_from([None, 50, 400]))
def test_the_longest_answer_is_the_last_that_fits(prompt, n, blocks, size, context):
    config = SchedulerConfig(num_blocks=blocks, block_size=size, context_length=context)

    def fits(tokens):
        within = context is None or prompt + tokens <= context
        return within and max_blocks(Request(0, [0] * prompt, tokens, n), size) <= blocks

    lengths = [tokens for tokens in range(1, blocks * size + 2) if fits(tokens)]
    assert longest_answer(prompt, n, config) == max(lengths, default=0)


def test_answers_that_share_the_pool_are_as_long_as_it_allows():
    with served(num_blocks=40, context_length=128) as (port, _):  # 160 tokens for a context of 128
        for more in ({"n": 1}, {"n": 2, "max_tokens": 20}, {"n": 2}, {"n": 4}):
            status, _, values = post(port, CHAT, {"messages": HELLO, "ignore_eos": True, **more})
            assert status == 200 and len(values["choices"]) == more["n"], values
            prompt, new = values["usage"]["prompt_tokens"], values["usage"]["completion_tokens"]
            longest = longest_answer(prompt, more["n"], SchedulerConfig(40, 4, context_length=128))
            assert new == more["n"] * more.get("max_tokens", longest)
        status, _, values = post(port, CHAT, {"messages": HELLO, "n": 2, "max_tokens": 90})
        assert status == 400 and "blocks" in values["error"]["message"], "what a client says itself is not changed"


@pytest.mark.parametrize(
    ("options", "word"),
    [({"salt": [1]}, "salt"), ({"priority": None}, "priority"), ({"priority": "1"}, "priority"), ({"user": {}}, "user"),
     ({"priority": float("nan")}, "priority"), ({"adapter": ["x"]}, "adapter"), ({"n": 1.5}, "answers"), ({"n": "2"}, "answers")],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("order", ["fcfs", "priority", "fair"])
def test_what_would_break_the_queue_is_refused_when_it_comes(options, word, order):
    """Nothing of it is registered, and those who are being served do not notice."""
    core = engine(order=order, prefix="hash")
    good = core.add("a good request", greedy(20))
    core.step()
    with pytest.raises(RequestError, match=word):
        core.add("one that is refused", greedy(4), **options)
    core.add("another", greedy(4), n=2.0, priority=1.5, salt=("a", 1))
    while core.has_work:
        core.step()
    ends = [core.log.events_of(request)[-1].kind for request in core.log.requests()]
    assert ends == ["finished", "refused", "finished"] and core.log.requests()[0] == good


def test_an_engine_in_a_thread_survives_it_too():
    async def story():
        front = AsyncEngine(engine(order="priority", prefix="hash"))
        await front.start()
        good = await front.submit("a good request", greedy(30))
        for bad in ({"salt": [1]}, {"priority": None}):
            with pytest.raises(RequestError):
                await front.submit("a prompt of more than one block", greedy(4), **bad)
        deltas = [delta async for delta in good]
        await front.stop(drain=False)
        return len(deltas), front.error

    assert asyncio.run(story()) == (30, None)


# --- prompts and tokens -----------------------------------------------------------------------------------------------------


def test_an_empty_prompt_is_what_it_is_on_the_command_line():
    llm = small()
    with served(llm) as (port, _), client(port) as api:
        answer = api.completions.create(model="small", prompt="", max_tokens=6, temperature=0)
        assert answer.choices[0].text == llm.generate("", SamplingParams(max_tokens=6)).text and answer.usage.prompt_tokens == 1
    bare = byte_tokenizer(512)
    bare.bos_id = None
    with served(LLM((random_model(SMALL)[0], bare))) as (port, _):
        status, _, values = post(port, TEXT, {"prompt": ""})
        assert status == 400 and "no begin-of-text token" in values["error"]["message"]


def test_rows_without_a_token_are_answers_and_alternatives_like_others():
    padded = LLM((random_model(SMALL)[0], byte_tokenizer(300)))
    with served(padded) as (port, _), client(port) as api:
        answer = api.completions.create(
            model="small", prompt="hello", max_tokens=30, seed=1, logprobs=20, extra_body={"ignore_eos": True}
        )
        (choice,) = answer.choices
        assert any(name.startswith("token_id:") for name in choice.logprobs.tokens), "some were drawn"
        assert all(len(top) >= 20 for top in choice.logprobs.top_logprobs), "no two share a name"
        chat = api.chat.completions.create(model="small", messages=HELLO, max_tokens=5, logprobs=True, top_logprobs=20)
        padding = [t for c in chat.choices[0].logprobs.content for t in c.top_logprobs if t.token.startswith("token_id:")]
        assert padding and all(t.bytes == [] for t in padding)


def test_stop_tokens_and_special_tokens_reach_the_model(tiny):
    with served(tiny) as (port, _), client(port) as api:
        first = api.completions.create(model="small", prompt="Once", max_tokens=8, temperature=0, logprobs=0)
        ids = tiny.generate("Once", SamplingParams(max_tokens=8)).token_ids
        asked = {"stop_token_ids": [ids[3]], "skip_special_tokens": False}
        cut = api.completions.create(model="small", prompt="Once", max_tokens=8, temperature=0, logprobs=0, extra_body=asked)
    assert first.choices[0].finish_reason == "length" and cut.choices[0].finish_reason == "stop"
    at = ids.index(ids[3])
    assert cut.usage.completion_tokens == at + 1 and first.choices[0].text.startswith(cut.choices[0].text)
    expected = SamplingParams(max_tokens=8, stop_token_ids=[ids[3]], skip_special_tokens=False)
    assert cut.choices[0].text == tiny.generate("Once", expected).text


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_logits_that_are_no_numbers_end_that_request_alone(value):
    core = engine()
    forward = core.executor.transformer.forward

    def spoiled(segments):
        rows = [row.copy() for row in forward(segments)]
        for row, segment in zip(rows, segments, strict=True):
            if segment.tokens[0] == 77 or segment.position == 4:  # the first request's prompt, and never the second's
                row[-1, 5] = value
        return rows

    class Spoiled:
        config, ops = core.executor.transformer.config, core.executor.transformer.ops
        kv = core.executor.transformer.kv
        logits = staticmethod(lambda segments: np.concatenate(spoiled(segments)))

    core.executor.transformer = Spoiled()
    bad = core.add([77, 1, 2], SamplingParams(max_tokens=5, temperature=1.0, seed=0))
    good = core.add([1, 2, 3, 4, 5, 6, 7, 8], SamplingParams(max_tokens=5, temperature=1.0, seed=0, ignore_eos=True))
    deltas = []
    while core.has_work:
        deltas += core.step()
    assert [d for d in deltas if d.error and d.request != bad] == [] and any(d.error and d.request == bad for d in deltas)
    assert sum(len(d.token_ids) for d in deltas if d.request == good) == 5


def test_served_defaults_are_the_models_own_only_where_they_are_given():
    fake = FakeEngine()
    told = replace(Served("fake", TOKENIZER, 512, CONTEXT), sampling={"temperature": 0.5, "top_k": 7})
    with running(fake, told) as (port, _), client(port) as api:
        api.completions.create(model="fake", prompt="a", max_tokens=1)
        api.completions.create(model="fake", prompt="a", max_tokens=1, temperature=0)
    assert [(p.temperature, p.top_k) for _, p, *_ in fake.submitted] == [(0.5, 7), (0.0, 0)]
