"""The official `openai` client against the server: a program for OpenAI's interface is a program for ours."""

import asyncio

import pytest
from server_help import PATIENCE_S, TOKENIZER, FakeEngine, running, say, wait_until

openai = pytest.importorskip("openai", reason="the official client is not installed: pip install openai")

HELLO = [{"role": "user", "content": "hello"}]
CHAT_IDS = TOKENIZER.apply_chat_template(HELLO)
IDS = TOKENIZER.encode("hello")


def client(port, key="unused", kind=None, **options):
    kind = kind or openai.OpenAI
    return kind(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, timeout=PATIENCE_S, max_retries=0, **options)


@pytest.fixture(scope="module")
def port():
    with running(FakeEngine()) as (port, _):
        yield port


@pytest.fixture
def api(port):
    with client(port) as api:
        yield api


def test_models(api):
    assert [m.id for m in api.models.list()] == ["fake"]
    assert api.models.retrieve("fake").owned_by == "minillm"
    with pytest.raises(openai.NotFoundError):
        api.models.retrieve("other")


def test_completions_n_stop_logprobs(api):
    full = say(IDS, 20, 0, 5)
    stop = full[9:11]
    answer = api.completions.create(model="fake", prompt="hello", max_tokens=20, n=2, seed=5, stop=[stop], logprobs=3)
    first = answer.choices[0]
    assert first.text == full[: full.index(stop)] and first.finish_reason == "stop"
    assert len(first.logprobs.tokens) == len(first.logprobs.token_logprobs) == full.index(stop) + 2
    assert all(len(top) == 3 for top in first.logprobs.top_logprobs)
    assert first.logprobs.text_offset[:3] == [0, 1, 2]
    assert [c.index for c in answer.choices] == [0, 1] and answer.usage.prompt_tokens == 5
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens_details.cached_tokens == 2


def test_chat(api):
    answer = api.chat.completions.create(model="fake", messages=HELLO, max_completion_tokens=9, logprobs=True, top_logprobs=2)
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", say(CHAT_IDS, 9), "length")
    assert "".join(entry.token for entry in choice.logprobs.content) == say(CHAT_IDS, 9)
    assert [len(entry.top_logprobs) for entry in choice.logprobs.content] == [2] * 9


def test_streams(api):
    chunks = list(api.completions.create(model="fake", prompt="hello", max_tokens=9, stream=True))
    assert "".join(c.choices[0].text for c in chunks) == say(IDS, 9) and chunks[-1].choices[0].finish_reason == "length"
    options = {"include_usage": True}
    *chunks, last = api.chat.completions.create(
        model="fake", messages=HELLO, max_tokens=9, stream=True, n=2, stream_options=options
    )
    for index in range(2):
        deltas = [c.choices[0].delta for c in chunks if c.choices[0].index == index]
        assert "".join(d.content for d in deltas) == say(CHAT_IDS, 9, index)
        assert [d.role for d in deltas] == ["assistant"] + [None] * 8
    assert last.choices == [] and last.usage.completion_tokens == 18


def test_the_streaming_helper_puts_a_chat_together(api):
    with api.chat.completions.stream(model="fake", messages=HELLO, max_tokens=9, stop=say(CHAT_IDS, 9)[7:]) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert final.choices[0].message.content == say(CHAT_IDS, 7) and final.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("ask", "error", "param"),
    [
        ({"temperature": 3}, "BadRequestError", "temperature"),
        ({"logit_bias": {"5": 101}}, "BadRequestError", "logit_bias"),
        ({"presence_penalty": 2.5}, "BadRequestError", "presence_penalty"),
        ({"extra_body": {"foo": 1}}, "BadRequestError", "foo"),
        ({"model": "gpt-4"}, "NotFoundError", "model"),
        ({"max_tokens": 10_000}, "BadRequestError", "messages"),
        ({"response_format": {"type": "json_object"}}, "BadRequestError", "response_format"),
    ],
)
def test_mistakes_become_the_clients_exceptions_and_name_the_field(api, ask, error, param):
    with pytest.raises(getattr(openai, error)) as found:
        api.chat.completions.create(**{"model": "fake", "messages": HELLO, **ask})
    assert found.value.param == param and param in found.value.message


def test_a_wrong_key_a_full_queue_and_a_stop_have_exceptions_of_their_own():
    engine = FakeEngine(delay=0.02, queue=0)
    with running(engine, api_key="right", timeout_s=0.3) as (port, server):
        with client(port, "wrong") as api, pytest.raises(openai.AuthenticationError):
            api.models.list()
        with client(port, "right") as api:
            with pytest.raises(openai.RateLimitError) as found:
                api.completions.create(model="fake", prompt="a")
            assert found.value.response.headers["retry-after"] == "3"
            engine.queue = 10
            with pytest.raises(openai.InternalServerError) as found:
                api.completions.create(model="fake", prompt="a", max_tokens=250)
            assert found.value.status_code == 504
            with pytest.raises(openai.APIError, match="0.3 s"):
                list(api.completions.create(model="fake", prompt="a", max_tokens=250, stream=True))
            server.stop()
            wait_until(lambda: engine.stopping, "it stops")


def test_the_client_waits_as_long_as_retry_after_says_and_then_gets_its_answer():
    engine = FakeEngine(queue=0)
    with running(engine) as (port, _), client(port).with_options(max_retries=3) as api:
        submit = engine.submit

        async def later(*args, **more):
            engine.submit, engine.queue = submit, 10
            from minillm.errors import Overloaded

            raise Overloaded("full", 0.1)

        engine.submit = later
        assert api.completions.create(model="fake", prompt="hello", max_tokens=4).choices[0].text == say(IDS, 4)


def test_leaving_a_stream_cancels_it():
    engine = FakeEngine(delay=0.02)
    with running(engine) as (port, _), client(port) as api:
        with api.completions.create(model="fake", prompt="a", max_tokens=250, stream=True) as stream:
            next(iter(stream))
        wait_until(lambda: not engine.live, "it is cancelled", seconds=4)
    assert engine.cancelled == [0]


def test_64_streams_at_once():
    engine = FakeEngine(delay=0.002)

    async def main(port):
        async with client(port, kind=openai.AsyncOpenAI) as api:

            async def one(k):
                stream = await api.completions.create(model="fake", prompt=f"prompt {k}", max_tokens=20, stream=True)
                return "".join([chunk.choices[0].text async for chunk in stream])

            return await asyncio.wait_for(asyncio.gather(*(one(k) for k in range(64))), PATIENCE_S)

    with running(engine) as (port, _):
        texts = asyncio.run(main(port))
    assert texts == [say(TOKENIZER.encode(f"prompt {k}"), 20) for k in range(64)] and engine.cancelled == []
