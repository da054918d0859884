"""What clients of the server meet at its door: queue and pool, keys, origins, ids, half-closed connections, odd prompts."""

import asyncio
import json
import socket
from dataclasses import replace

import pytest
from engine_help import SMALL, engine, greedy, small
from hypothesis import given
from hypothesis import strategies as st
from server_help import CONTEXT, PATIENCE_S, TOKENIZER, FakeEngine, call, is_error, opened, post, running, say, wait_until

from minillm import LLM, SamplingParams, __version__
from minillm.errors import RequestError
from minillm.model.random_model import byte_tokenizer, random_model
from minillm.serving.async_engine import AsyncEngine
from minillm.serving.limits import SchedulerConfig, blocks_at_most, longest_answer
from minillm.serving.request import Request
from minillm.serving.server import Served

openai = pytest.importorskip("openai", reason="the official client is not installed: pip install openai")
TEXT, CHAT = "/v1/completions", "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]


def client(port, **options):
    options = {"api_key": "unused", "timeout": PATIENCE_S, "max_retries": 0, **options}
    return openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", **options)


def served(llm=None, max_queue=256, **config):
    """A server of a small model: use as `with served() as (port, server)`."""
    core = engine(llm, **config)
    return running(AsyncEngine(core, max_queue), Served.of(core.llm, "small", core.config.num_blocks * core.config.block_size))


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
        return within and blocks_at_most(Request(0, [0] * prompt, tokens, n), size) <= blocks

    lengths = [tokens for tokens in range(1, blocks * size + 2) if fits(tokens)]
    assert longest_answer(prompt, n, config) == max(lengths, default=0)


def test_answers_that_share_the_pool_are_as_long_as_it_allows():
    with served(num_blocks=40, context_length=128) as (port, _):  # 160 tokens for a context of 128
        for more in ({"n": 1}, {"n": 2, "max_tokens": 20}, {"n": 2}, {"n": 4}):
            status, _, values = post(port, CHAT, {"messages": HELLO, "ignore_eos": True, **more})
            assert status == 200 and len(values["choices"]) == more["n"], values
            prompt, new = values["usage"]["prompt_tokens"], values["usage"]["completion_tokens"]
            assert new == more["n"] * more.get(
                "max_tokens", longest_answer(prompt, more["n"], SchedulerConfig(40, 4, context_length=128))
            )
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
    assert (
        core.log.of(good)[-1].kind == "finished" and [core.log.of(r)[-1].kind for r in core.log.requests()].count("refused") == 1
    )


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


# --- keys -------------------------------------------------------------------------------------------------------------------


def test_who_has_no_key_holds_no_place():
    body = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer wrong\r\nContent-Length: 100000\r\n\r\n"
    right = {"Authorization": "Bearer sesame"}
    with running(FakeEngine(), api_key="sesame", requests=2, read_s=20.0) as (port, server):
        strangers = [socket.create_connection(("127.0.0.1", port)) for _ in range(5)]
        try:
            for stranger in strangers:
                stranger.sendall(body)  # and nothing of the body that it announces
            wait_until(lambda: len(server.server_state.connections) == 5, "they are all connected")
            for _ in range(3):
                assert post(port, TEXT, {"prompt": "hi", "max_tokens": 1}, right)[0] == 200
        finally:
            for stranger in strangers:
                stranger.close()


def test_any_of_several_keys_opens_and_no_other():
    with running(FakeEngine(), api_key=("ann", "bob")) as (port, _):
        statuses = {
            key: call(port, "GET", "/v1/models", headers={"Authorization": f"Bearer {key}"})[0]
            for key in ("ann", "bob", "eve", "annbob", "")
        }
        assert statuses == {"ann": 200, "bob": 200, "eve": 401, "annbob": 401, "": 401}
        with client(port, api_key="bob") as api:
            assert [m.id for m in api.models.list()] == ["fake"]


# --- ids, log, version ------------------------------------------------------------------------------------------------------


def test_every_answer_has_a_request_id_the_clients_own_where_it_sent_one():
    with running(FakeEngine(), api_key="k") as (port, _), client(port, api_key="k") as api:
        made = [api.completions.create(model="fake", prompt="a")._request_id for _ in range(2)]
        assert len(set(made)) == 2 and all(len(id) == 32 for id in made)
        mine = api.completions.with_raw_response.create(model="fake", prompt="a", extra_headers={"X-Request-Id": "my-1"})
        assert mine.headers["x-request-id"] == "my-1" == mine.parse()._request_id
        with pytest.raises(openai.BadRequestError) as found:
            api.completions.create(model="fake", prompt="a", temperature=9, extra_headers={"X-Request-Id": "my-2"})
        assert found.value.request_id == "my-2", "errors have it too"
        for path, expected in (("/health", 200), ("/v1/models", 401), ("/nothing", 401)):
            status, headers, _ = call(port, "GET", path)
            assert status == expected and len(headers["x-request-id"]) == 32
        for strange in ("two words", "x" * 129, "\xe9"):
            _, headers, _ = call(port, "GET", "/health", headers={"X-Request-Id": strange.encode("latin-1")})
            assert len(headers["x-request-id"]) == 32, "what is no id is not repeated"


def test_the_log_has_a_line_for_each_request_and_says_nothing_of_what_was_said():
    lines = []
    with running(FakeEngine(), api_key="k", log=lines.append) as (port, _):
        key = {"Authorization": "Bearer k", "x-request-id": "r1"}
        post(port, TEXT, {"prompt": "a secret", "max_tokens": 3}, key)
        call(port, "POST", CHAT, {"messages": HELLO, "max_tokens": 4, "stream": True}, key)
        post(port, TEXT, {"prompt": "a secret", "temperature": 9}, key)
        call(port, "GET", "/v1/models")
        wait_until(lambda: len(lines) == 4, "all are written")
    first, second, third, fourth = lines
    assert (first["method"], first["path"], first["status"], first["request_id"]) == ("POST", TEXT, 200, "r1")
    assert (first["usage"]["prompt_tokens"], first["usage"]["completion_tokens"], first["model"]) == (8, 3, "fake")
    assert second["stream"] and second["usage"]["completion_tokens"] == 4 and second["duration_s"] >= 0
    assert third["status"] == 400 and fourth["status"] == 401 and "usage" not in fourth
    assert "secret" not in json.dumps(lines) and "hello" not in json.dumps(lines)


def test_a_client_that_leaves_has_a_line_too():
    lines, fake = [], FakeEngine(delay=0.02)
    with running(fake, log=lines.append) as (port, _):
        connection = opened(port, TEXT, {"prompt": "a", "max_tokens": 200, "stream": True})
        connection.recv(100)
        connection.close()
        wait_until(lambda: lines, "it is noticed")
    assert lines[0]["status"] == 200 and 0 < lines[0]["usage"]["completion_tokens"] < 200 and fake.cancelled == [0]


def test_the_version_is_said_as_vllm_says_it():
    with running(FakeEngine()) as (port, _):
        assert json.loads(call(port, "GET", "/version")[2]) == {"version": __version__}


# --- web pages --------------------------------------------------------------------------------------------------------------

PAGE = "http://localhost:3000"
PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
}


def test_a_web_page_may_ask_only_where_its_origin_was_named():
    with running(FakeEngine(), api_key="k") as (port, _):
        assert call(port, "OPTIONS", TEXT, headers={"Origin": PAGE, **PREFLIGHT})[0] != 200
        _, headers, _ = call(port, "GET", "/health", headers={"Origin": PAGE})
        assert not [name for name in headers if name.startswith("access-control")], "off by default"
    with running(FakeEngine(), api_key="k", cors=(PAGE,), local=True) as (port, _):
        status, headers, _ = call(port, "OPTIONS", TEXT, headers={"Origin": PAGE, **PREFLIGHT})
        assert (status, headers["access-control-allow-origin"]) == (200, PAGE), "a browser asks first, and without the key"
        assert "x-stainless-os" in headers["access-control-allow-headers"]
        assert call(port, "OPTIONS", TEXT, headers={"Origin": "http://evil.test", **PREFLIGHT})[0] == 400
        asked = {"Origin": PAGE, "Authorization": "Bearer k"}
        status, headers, _ = post(port, TEXT, {"prompt": "a"}, asked)
        assert (status, headers["access-control-allow-origin"]) == (200, PAGE)
        status, headers, _ = post(port, TEXT, {"prompt": "a"}, {"Origin": PAGE})
        assert (status, headers["access-control-allow-origin"]) == (401, PAGE), "a page can read why it was refused"
        _, headers, _ = post(port, TEXT, {"prompt": "a"}, {**asked, "Origin": "http://evil.test"})
        assert "access-control-allow-origin" not in headers


# --- a client that sends no more --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_a_client_that_closes_its_sending_side_gets_its_answer(stream, version):
    fake = FakeEngine(delay=0.05)
    with running(fake) as (port, _):
        body = json.dumps({"prompt": "hello", "max_tokens": 6, "stream": stream}).encode()
        head = f"POST {TEXT} HTTP/{version}\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
            connection.sendall(head.encode() + body)
            connection.shutdown(socket.SHUT_WR)
            data = b"".join(iter(lambda: connection.recv(1 << 16), b""))  # to its end: the server closes
    while data.startswith(b"HTTP/1.1 100 Continue\r\n\r\n"):  # interim responses: every client skips them
        data = data.partition(b"\r\n\r\n")[2]
    letters = say(TOKENIZER.encode("hello"), 6)
    assert data.startswith(b"HTTP/1.1 200") and fake.cancelled == []
    assert (b"[DONE]" in data) if stream else (f'"text":"{letters}"'.encode() in data)


def test_a_client_that_has_left_for_good_is_noticed_before_its_answer_is_ready():
    fake = FakeEngine(delay=0.05)
    with running(fake) as (port, _):
        opened(port, TEXT, {"prompt": "hello", "max_tokens": 200}).close()  # its answer would take 10 s
        wait_until(lambda: fake.submitted, "it is accepted")
        wait_until(lambda: fake.cancelled == [0], "it is given up", seconds=4)


def test_half_a_request_is_none():
    fake = FakeEngine()
    with running(fake) as (port, _), socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
        )
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1 << 16) == b"" and fake.submitted == []


# --- prompts and tokens -----------------------------------------------------------------------------------------------------


def test_an_empty_prompt_is_what_it_is_on_the_command_line():
    llm = small()
    with served(llm) as (port, _), client(port) as api:
        answer = api.completions.create(model="small", prompt="", max_tokens=6, temperature=0)
        assert answer.choices[0].text == llm.generate("", SamplingParams(max_tokens=6)).text and answer.usage.prompt_tokens == 1
    bare = byte_tokenizer(512)
    bare.bos_id = None
    with served(LLM((random_model(SMALL)[0], bare))) as (port, _), client(port) as api:
        with pytest.raises(openai.BadRequestError, match="no begin-of-text token"):
            api.completions.create(model="small", prompt="", max_tokens=6)


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
        config, kv_dtype = core.executor.transformer.config, core.executor.transformer.kv_dtype
        forward = staticmethod(spoiled)

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
    with running(fake, replace(Served("fake", TOKENIZER, 512, CONTEXT), sampling={"temperature": 0.5, "top_k": 7})) as (port, _):
        with client(port) as api:
            api.completions.create(model="fake", prompt="a", max_tokens=1)
            api.completions.create(model="fake", prompt="a", max_tokens=1, temperature=0)
    assert [(p.temperature, p.top_k) for _, p, *_ in fake.submitted] == [(0.5, 7), (0.0, 0)]
