"""The server over a fake engine: every endpoint, every limit, every way to end, through a real port."""

import json
import signal
import socket
import threading
import time

import pytest
from server_help import (
    CONTEXT,
    PATIENCE_S,
    SERVED,
    TOKENIZER,
    FakeEngine,
    call,
    events,
    is_error,
    opened,
    post,
    running,
    say,
    wait_until,
)

from minillm.errors import MiniLLMError, RequestError
from minillm.metrics.events import ARRIVED, CACHED, CANCELLED, FINISHED, PREEMPTED, REFUSED, TOKEN, e2e, tpot, ttft
from minillm.server.guards import is_loopback
from minillm.server.listen import bind
from minillm.server.metrics_page import MetricsPage, WatchedLog

TEXT, CHAT = "/v1/completions", "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]
IDS = TOKENIZER.encode("hello")
END = {"finish_reason": "length", "stop_reason": None}


@pytest.fixture(scope="module")
def fast():
    """One server for all tests that only ask it something."""
    engine = FakeEngine()
    with running(engine) as (port, _):
        yield port, engine


def test_a_completion_is_what_the_engine_said(fast):
    port, engine = fast
    status, _, values = post(port, TEXT, {"model": "fake", "prompt": "hello", "max_tokens": 12, "seed": 5, "user": "ann"})
    assert status == 200
    assert values.pop("id").startswith("cmpl-") and abs(values.pop("created") - time.time()) < 60
    assert values == {
        "object": "text_completion",
        "model": "fake",
        "system_fingerprint": "minillm",
        "choices": [{"index": 0, "text": say(IDS, 12, seed=5), "logprobs": None, **END}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 12, "total_tokens": 17, "prompt_tokens_details": {"cached_tokens": 2}},
    }
    prompt, params, n, user, _ = engine.submitted[-1]
    assert (prompt, params.max_tokens, params.seed, n, user) == (IDS, 12, 5, 1, "ann")


def test_a_chat_is_what_the_engine_said_to_the_templates_prompt(fast):
    port, engine = fast
    status, _, values = post(port, CHAT, {"messages": HELLO, "max_tokens": 4, "logprobs": True, "top_logprobs": 2})
    prompt = engine.submitted[-1][0]
    assert prompt == TOKENIZER.apply_chat_template(HELLO)
    assert status == 200 and values["object"] == "chat.completion" and values["id"].startswith("chatcmpl-")
    (choice,) = values["choices"]
    assert choice["message"] == {"role": "assistant", "content": say(prompt, 4), "refusal": None}
    assert [entry["token"] for entry in choice["logprobs"]["content"]] == list(say(prompt, 4))
    assert values["usage"]["prompt_tokens"] == len(prompt)


def test_several_prompts_times_n_are_numbered_prompt_by_prompt(fast):
    port, _ = fast
    _, _, values = post(port, TEXT, {"prompt": ["one", "two", "three"], "n": 2, "max_tokens": 5, "seed": 1})
    expected = [say(TOKENIZER.encode(p), 5, i, 1) for p in ("one", "two", "three") for i in range(2)]
    assert [c["text"] for c in values["choices"]] == expected and [c["index"] for c in values["choices"]] == list(range(6))
    usage = values["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (11, 30, 41), "a prompt counts once"


@pytest.mark.parametrize("form", ["hello", ["hello"], IDS, [IDS]], ids=["text", "texts", "ids", "lists of ids"])
def test_the_four_forms_of_a_prompt_give_the_same(fast, form):
    assert post(fast[0], TEXT, {"prompt": form, "max_tokens": 6})[2]["choices"][0]["text"] == say(IDS, 6)


@pytest.mark.parametrize(("path", "ask"), [(TEXT, {"prompt": ["hello", "you"]}), (CHAT, {"messages": HELLO})])
def test_a_stream_adds_up_to_the_whole_answer(fast, path, ask):
    port, _ = fast
    ask = {**ask, "n": 2, "max_tokens": 7, "seed": 3, "stop": ["zq"]}
    whole = post(port, path, ask)[2]
    status, headers, data = call(port, "POST", path, {**ask, "stream": True, "stream_options": {"include_usage": True}})
    assert status == 200 and headers["content-type"].startswith("text/event-stream")
    *chunks, last, done = events(data)
    assert done == "[DONE]" and last["choices"] == [] and last["usage"] == whole["usage"]
    assert len({c["id"] for c in (*chunks, last)}) == 1 and all(c["usage"] is None for c in chunks)
    texts, reasons = {}, {}
    for chunk in chunks:
        assert chunk["object"] == ("chat.completion.chunk" if path == CHAT else "text_completion")
        (choice,) = chunk["choices"]
        texts[choice["index"]] = texts.get(choice["index"], "") + choice.get("text", choice.get("delta", {}).get("content"))
        if path == CHAT:
            assert ("role" in choice["delta"]) == (choice["index"] not in reasons)
        assert reasons.get(choice["index"]) is None, "nothing follows the chunk with the reason"
        reasons[choice["index"]] = choice["finish_reason"]
    assert len(chunks) == whole["usage"]["completion_tokens"], "a chunk is a token"
    for choice in whole["choices"]:
        text = choice.get("text", choice.get("message", {}).get("content"))
        assert (texts[choice["index"]], reasons[choice["index"]]) == (text, choice["finish_reason"])


def test_without_include_usage_a_stream_has_no_usage(fast):
    *chunks, done = events(call(fast[0], "POST", TEXT, {"prompt": "a", "max_tokens": 3, "stream": True})[2])
    assert len(chunks) == 3 and done == "[DONE]" and not any("usage" in chunk for chunk in chunks)


def test_usage_in_each_chunk_counts_the_tokens_so_far(fast):
    """What load generators ask for; without include_usage it means nothing, as in vLLM."""
    ask, options = {"prompt": "a", "max_tokens": 3, "stream": True}, {"include_usage": True, "continuous_usage_stats": True}
    *chunks, last, _ = events(call(fast[0], "POST", TEXT, {**ask, "stream_options": options})[2])
    assert [c["usage"]["completion_tokens"] for c in chunks] == [1, 2, 3] and last["usage"] == chunks[-1]["usage"]
    *chunks, _ = events(call(fast[0], "POST", TEXT, {**ask, "stream_options": {"continuous_usage_stats": True}})[2])
    assert len(chunks) == 3 and not any("usage" in chunk for chunk in chunks)


def test_what_a_client_leaves_open_is_16_tokens_or_in_a_chat_the_rest_of_the_context(fast):
    port, engine = fast
    assert post(port, TEXT, {"prompt": "hello"})[2]["usage"]["completion_tokens"] == 16
    _, _, values = post(port, CHAT, {"messages": HELLO})
    assert values["usage"]["total_tokens"] == CONTEXT
    post(port, TEXT, {"prompt": [1] * (CONTEXT - 3)})
    assert engine.submitted[-1][1].max_tokens == 3


@pytest.mark.parametrize(
    ("path", "ask", "numbers"),
    [
        (TEXT, {"prompt": [1] * CONTEXT}, ["300"]),
        (TEXT, {"prompt": "x" * 1234}, ["1,234", "300"]),
        (TEXT, {"prompt": "hello", "max_tokens": 296}, ["5", "296", "301", "300"]),
        (CHAT, {"messages": [{"role": "user", "content": "x" * 1000}]}, ["300"]),
        (TEXT, {"prompt": ["hello", "x" * 300]}, ["300"]),
        (TEXT, {"prompt": "x" * 4801}, ["4,801", "4,800", "300"]),
        (CHAT, {"messages": [{"role": "user", "content": "x" * 2400}] * 3}, ["7,200", "4,800", "300"]),
        (CHAT, {"messages": [{"role": "user", "content": ""}] * 301}, ["301", "300"]),
    ],
)
def test_a_prompt_beyond_the_context_is_refused_with_both_numbers(fast, path, ask, numbers):
    port, engine = fast
    before = len(engine.submitted)
    status, _, values = post(port, path, ask)
    assert status == 400 and is_error(values) and values["error"]["code"] == "context_length_exceeded"
    assert all(number in values["error"]["message"] for number in numbers)
    assert len(engine.submitted) == before, "nothing was handed in, not even the prompts that fit"


def test_exactly_the_context_fits(fast):
    assert post(fast[0], TEXT, {"prompt": "hello", "max_tokens": CONTEXT - 5})[0] == 200


def test_what_the_engine_refuses_is_a_400(fast):
    status, _, values = post(fast[0], TEXT, {"prompt": [1, 511]})
    assert status == 400 and "never fit" in values["error"]["message"]


def test_models_and_health(fast):
    port, _ = fast
    _, _, data = call(port, "GET", "/v1/models")
    card = {"id": "fake", "object": "model", "created": 1_700_000_000, "owned_by": "minillm", "max_model_len": CONTEXT}
    assert json.loads(data) == {"object": "list", "data": [card]}
    assert json.loads(call(port, "GET", "/v1/models/fake")[2]) == card
    status, _, data = call(port, "GET", "/v1/models/other")
    assert status == 404 and json.loads(data)["error"]["code"] == "model_not_found"
    assert call(port, "GET", "/health")[::2] == (200, b'{"status":"ok"}')


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("POST", "/v1/nothing", 404),
        ("GET", TEXT, 405),
        ("DELETE", CHAT, 405),
        ("POST", "/health", 405),
        ("GET", "/metrics", 404),
        ("OPTIONS", TEXT, 405),
    ],
)
def test_a_wrong_address_is_an_error_of_the_same_shape(fast, method, path, status):
    found, headers, data = call(fast[0], method, path)
    assert found == status and is_error(json.loads(data)) and headers["content-type"] == "application/json"


@pytest.mark.parametrize("kind", ["text/plain", "", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_only_json_is_taken_so_that_no_web_page_can_ask_unasked(fast, kind):
    status, _, values = post(fast[0], TEXT, {"prompt": "a"}, {"Content-Type": kind})
    assert status == 415 and is_error(values)
    status, headers, _ = post(
        fast[0], TEXT, {"prompt": "a"}, {"Content-Type": "application/json; charset=utf-8", "Origin": "http://x"}
    )
    assert status == 200 and not any(name.lower().startswith("access-control") for name in headers)


KEY = "s3cret-key"


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (f"Bearer {KEY}", 200),
        (f"bearer {KEY}", 200),
        (None, 401),
        ("", 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        (f"Bearer {KEY[:-1]}", 401),
        (f"Bearer {KEY}x", 401),
        (KEY, 401),
        (f"Basic {KEY}", 401),
        (f"Bearer {KEY[:-1]}Y", 401),
        ("Bearer \xff\xfe", 401),
        (f"Bearer x{KEY}", 401),
        ("Bearer s", 401),
    ],
)
def test_the_key_must_be_right_to_the_last_letter(locked, header, status):
    found, headers, values = post(
        locked, TEXT, {"prompt": "a", "max_tokens": 1}, {} if header is None else {"Authorization": header}
    )
    assert found == status
    if status == 401:
        assert is_error(values) and values["error"]["code"] == "invalid_api_key" and headers["www-authenticate"] == "Bearer"
        assert KEY not in json.dumps(values)


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:80", 200), ("LOCALHOST", 200), ("127.0.0.1:5", 200), ("[::1]:80", 200), ("[::1]", 200), ("", 200)]
    + [
        (host, 403)
        for host in ("evil.com", "evil.com:80", "127.0.0.1.evil.com", "10.0.0.1", "[fe80::1]", "localhost.evil.com", "\xff")
    ],
)
def test_a_server_for_this_machine_is_not_reached_by_another_name(host, status):
    with running(FakeEngine(), local=True) as (port, _):
        found, _, data = call(port, "GET", "/v1/models", headers={"Host": host})
    assert found == status and (status == 200 or is_error(json.loads(data)))


@pytest.fixture(scope="module")
def locked():
    with running(FakeEngine(), api_key=KEY, page=MetricsPage()) as (port, _):
        yield port


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/nothing"])
def test_everything_but_health_is_behind_the_key(locked, path):
    assert call(locked, "GET", path)[0] == 401
    assert call(locked, "GET", path, headers={"Authorization": f"Bearer {KEY}"})[0] in (200, 404)
    assert call(locked, "GET", "/health")[0] == 200


def test_a_body_beyond_the_limit_is_a_413_declared_or_not():
    with running(FakeEngine(), body_limit=1000, read_s=1.0) as (port, _):
        inside = json.dumps({"prompt": "a", "max_tokens": 1}).encode().ljust(1000)
        assert call(port, "POST", TEXT, inside)[0] == 200
        status, _, values = post(port, TEXT, inside + b" ")
        assert (
            status == 413 and is_error(values) and "1,000" in values["error"]["message"] and "1001" in values["error"]["message"]
        )
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
            connection.sendall(head + b"2ee\r\n" + b" " * 750 + b"\r\n2ee\r\n" + b" " * 750 + b"\r\n")  # and no end in sight
            assert connection.recv(4000).startswith(b"HTTP/1.1 413")
        assert call(port, "POST", TEXT, b'{"prompt":"a"}')[0] == 200


@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize("path", [TEXT, "/nothing"])
def test_who_sends_too_much_and_closes_can_still_read_why(key, path):
    body = b" " * 12_000_000  # more than the buffers of both sides hold
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    with running(FakeEngine(), body_limit=1000, api_key=key) as (port, _):
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
                connection.sendall(head.encode() + body)
                answer = everything(connection)
            status = 401 if key else 413 if path == TEXT else 404
            assert answer.startswith(f"HTTP/1.1 {status}".encode()) and is_error(json.loads(answer.split(b"\r\n\r\n")[1]))
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
            connection.sendall(head.replace("Host: x", "Host: x\r\nExpect: 100-continue").encode())
            assert everything(connection).startswith(b"HTTP/1.1 4"), "who asks first is told without sending"


def test_a_body_that_does_not_arrive_is_a_408():
    with running(FakeEngine(), read_s=0.2) as (port, _):
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
            connection.sendall(head)
            answer = everything(connection)
        assert answer.startswith(b"HTTP/1.1 408") and is_error(json.loads(answer.split(b"\r\n\r\n")[1]))


def test_a_head_that_does_not_arrive_closes_the_connection_and_dripping_does_not_help():
    with running(FakeEngine(), read_s=0.3) as (port, _):
        for start in (b"", b"POST /v1/comp", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /hea"):
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
                connection.sendall(start)
                stop = threading.Event()
                threading.Thread(target=drip, args=(connection, stop), daemon=True).start()
                data = everything(connection)
                stop.set()
                assert data == b"" or data.startswith(b"HTTP/1.1 200" if b"health" in start else b"HTTP/1.1 400")


def drip(connection, stop):
    """A letter now and then, for ever: a slow loris."""
    while not stop.wait(0.02):
        try:
            connection.sendall(b"x")
        except OSError:
            return


def everything(connection):  # -> bytes until it closes
    data = b""
    while True:
        try:
            piece = connection.recv(1 << 16)
        except ConnectionResetError:
            return data
        if not piece:
            return data
        data += piece


def test_an_answer_that_takes_too_long_is_a_504_and_its_work_is_cancelled():
    engine = FakeEngine(delay=0.05)
    with running(engine, timeout_s=0.2) as (port, _):
        status, headers, values = post(port, TEXT, {"prompt": ["a", "b"], "max_tokens": 200})
        assert (
            status == 504 and is_error(values) and values["error"]["code"] == "timeout" and "0.2 s" in values["error"]["message"]
        )
        assert headers["x-should-retry"] == "false"
        wait_until(lambda: not engine.live, "the work is cancelled")
        status, _, data = call(port, "POST", TEXT, {"prompt": "a", "max_tokens": 200, "stream": True})
        *chunks, last = events(data)
        assert status == 200 and chunks and is_error(last) and last["error"]["code"] == "timeout", "an event, and no [DONE]"
        wait_until(lambda: not engine.live, "the work is cancelled")
    assert sorted(engine.cancelled) == [0, 1, 2]


def test_a_full_queue_is_a_429_with_a_time_and_cancels_the_prompts_that_had_a_place():
    engine = FakeEngine(delay=0.05, queue=3)
    with running(engine) as (port, _):
        status, headers, values = post(port, TEXT, {"prompt": ["a"] * 4, "max_tokens": 100})
        assert status == 429 and is_error(values) and values["error"]["type"] == "rate_limit_error"
        assert headers["retry-after"] == "3", "2.5 s, rounded up"
        wait_until(lambda: not engine.live, "the first three are cancelled")
    assert sorted(engine.cancelled) == [0, 1, 2]


def test_too_many_requests_at_hand_are_a_503():
    engine = FakeEngine(delay=0.1)
    with running(engine, requests=2) as (port, _):
        held = [opened(port, TEXT, {"prompt": "a", "max_tokens": 250}) for _ in range(2)]
        wait_until(lambda: len(engine.live) == 2, "two are at hand")
        status, headers, values = post(port, TEXT, {"prompt": "a"})
        assert status == 503 and is_error(values) and headers["retry-after"] == "1"
        for connection in held:
            connection.close()
        wait_until(lambda: call(port, "GET", "/health")[0] == 200, "there is room again")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("prompt", ["a", ["a", "b"]], ids=["one prompt", "two prompts"])
def test_a_client_that_leaves_is_cancelled_at_once(stream, prompt):
    engine = FakeEngine(delay=0.05)
    with running(engine) as (port, _):
        connection = opened(port, TEXT, {"prompt": prompt, "max_tokens": 250, "stream": stream, "n": 2})
        wait_until(lambda: len(engine.live) == len(prompt), "the engine has it")
        if stream:
            connection.recv(100)
        connection.close()
        wait_until(lambda: not engine.live, "it is cancelled", seconds=5)  # complete, it would take 25 s
    assert sorted(engine.cancelled) == list(range(len(prompt)))


def test_a_bug_is_a_500_of_the_same_shape_that_tells_no_details_and_the_server_lives_on():
    engine = FakeEngine(crash_after=2)
    with running(engine) as (port, _):
        status, _, values = post(port, TEXT, {"prompt": "a", "max_tokens": 9})
        assert status == 500 and is_error(values) and "ZeroDivision" not in json.dumps(values)
        *chunks, last = events(call(port, "POST", TEXT, {"prompt": "a", "max_tokens": 9, "stream": True})[2])
        assert len(chunks) == 2 and is_error(last)
        assert post(port, TEXT, {"prompt": ["a", "b"], "max_tokens": 9})[0] == 500, "half of the answers are no answer"
        assert is_error(events(call(port, "POST", TEXT, {"prompt": ["a", "b"], "max_tokens": 9, "stream": True})[2])[-1])
        engine.crash_after = None
        assert post(port, TEXT, {"prompt": "a"})[0] == 200 and not engine.live


def test_what_fails_after_a_request_was_accepted_is_not_the_clients_fault():
    with running(FakeEngine(crash_after=1, crash=RequestError("the model's logits hold NaN."))) as (port, _):
        status, _, values = post(port, TEXT, {"prompt": "a"})
        assert status == 500 and "NaN" in values["error"]["message"] and values["error"]["type"] == "server_error"


def test_an_engine_that_has_died_is_seen_in_health():
    engine = FakeEngine()
    with running(engine) as (port, _):
        engine.error = MiniLLMError("dead")
        assert call(port, "GET", "/health")[0] == 503


def test_stopping_finishes_what_is_accepted_and_refuses_what_is_new_with_the_port_open():
    engine = FakeEngine(delay=0.02)
    with running(engine) as (port, server):
        stream = opened(port, TEXT, {"prompt": "hello", "max_tokens": 60, "stream": True})
        whole = opened(port, TEXT, {"prompt": "hello", "max_tokens": 60})
        wait_until(lambda: len(engine.live) == 2, "the engine has both")
        server.stop()
        wait_until(lambda: engine.stopping, "it stops")
        status, headers, values = post(port, TEXT, {"prompt": "new"})
        assert status == 503 and is_error(values) and values["error"]["code"] == "stopping" and "retry-after" in headers
        assert call(port, "GET", "/health")[0] == 503
        chunks = everything(stream)
        assert chunks.count(b'"text"') == 60 and b"data: [DONE]" in chunks
        assert say(IDS, 60).encode() in everything(whole)
    assert engine.cancelled == []


def test_after_the_grace_time_those_left_get_an_error_and_never_silence():
    engine = FakeEngine(delay=0.05)
    with running(engine, grace_s=0.3) as (port, server):
        stream = opened(port, TEXT, {"prompt": "hello", "max_tokens": 250, "stream": True})
        whole = opened(port, TEXT, {"prompt": "hello", "max_tokens": 250})
        wait_until(lambda: len(engine.live) == 2, "the engine has both")
        server.stop()
        chunks, answer = everything(stream), everything(whole)
        assert b'"code":"stopping"' in chunks and b"[DONE]" not in chunks
        assert answer.startswith(b"HTTP/1.1 503") and is_error(json.loads(answer.split(b"\r\n\r\n")[1]))


def test_signals_ask_once_twice_control_c_means_now():
    with running(FakeEngine()) as (_, server):
        server.handle_exit(signal.SIGTERM, None)
        server.handle_exit(signal.SIGTERM, None)
        assert server.asked == 1 and not server.force_exit
        server.handle_exit(signal.SIGINT, None)
        assert server.force_exit


def test_a_reader_that_does_not_read_holds_neither_engine_nor_server():
    engine = FakeEngine()
    served = type(SERVED)("fake", TOKENIZER, 512, 200_000)
    with running(engine, served, timeout_s=1.0) as (port, _):
        connection = opened(port, TEXT, {"prompt": "a", "max_tokens": 150_000, "stream": True, "logprobs": 20})
        wait_until(lambda: engine.live, "it runs")
        wait_until(lambda: not engine.live, "its time is over")
        assert call(port, "GET", "/health")[0] == 200
        connection.close()


def test_the_metrics_page_says_what_the_log_says():
    page = MetricsPage()
    now = iter(range(1000))
    log = WatchedLog(clock=lambda: next(now) / 16)
    log.page = page
    for request, tokens in ((1, 5), (2, 1), (3, 2)):
        log.add(request, ARRIVED, 10 * request)
        log.add(request, CACHED, 8)
        for _ in range(tokens):
            log.add(request, TOKEN)
        log.add(request, PREEMPTED)
        log.add(request, CACHED, 8)  # it came back
    for request in (1, 2):
        log.add(request, FINISHED)
    log.add(3, CANCELLED)
    log.add(4, REFUSED)
    lines = page.render({"running": 2, "waiting": 3, "kv_blocks_used": 7, "kv_blocks_total": 9}).decode().splitlines()
    values = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}

    def of(name):
        return values[f"minillm_{name}"]

    assert of('requests_total{outcome="finished"}') == 2 == 2 * of('requests_total{outcome="cancelled"}')
    assert of('requests_total{outcome="refused"}') == 1
    assert (of("generation_tokens_total"), of("prompt_tokens_total"), of("prefix_cache_hit_tokens_total")) == (8, 60, 24)
    assert of("preemptions_total") == 3
    for name, measure, count in (
        ("time_to_first_token", ttft, 2),
        ("time_per_output_token", tpot, 1),
        ("e2e_request_latency", e2e, 2),
    ):
        expected = [v for v in (measure(log, 1), measure(log, 2)) if v is not None]
        assert of(f"{name}_seconds_count") == count == len(expected)
        assert of(f"{name}_seconds_sum") == pytest.approx(sum(expected))
    assert (of("requests_running"), of("requests_waiting"), of("kv_blocks_used"), of("kv_blocks")) == (2, 3, 7, 9)
    assert "minillm_requests_swapped" not in values, "what the engine does not say is not made up"


def test_each_of_n_answers_has_a_tpot_of_its_own():
    page, now = MetricsPage(), iter([0, *range(1, 9), 9])
    log = WatchedLog(clock=lambda: next(now))
    log.page = page
    log.add(5, ARRIVED, 3)
    for k in range(8):
        log.add(5, TOKEN, index=k % 2)
    log.add(5, FINISHED)
    text = page.render({}).decode()
    assert "time_per_output_token_seconds_count 2.0" in text and "time_per_output_token_seconds_sum 4.0" in text, (
        "2 s a token each"
    )
    assert "time_to_first_token_seconds_count 1.0" in text


def test_metrics_over_http_and_two_pages_share_nothing():
    first, second = MetricsPage(), MetricsPage()
    with running(FakeEngine(), page=first) as (port, _):
        status, headers, data = call(port, "GET", "/metrics")
    assert status == 200 and headers["content-type"].startswith("text/plain") and b"minillm_kv_blocks 100.0" in data
    first.record(None, 1, TOKEN, 5)
    assert b"minillm_generation_tokens_total 0.0" in second.render({})


def test_a_taken_port_is_an_error_that_names_it():
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(MiniLLMError, match=str(port)):
            bind("127.0.0.1", port)
    with pytest.raises(MiniLLMError, match="no.such.host"):
        bind("no.such.host.invalid", 0)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("example.org", False),
    ],
)
def test_loopback_is_what_no_other_machine_reaches(host, loopback):
    assert is_loopback(host) == loopback


def test_a_token_does_not_wait_for_the_one_before_it_to_be_confirmed():
    """Accepted sockets have TCP_NODELAY: else a client that answers late gets its first tokens in one lump."""
    with bind("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()) as client:
        listener.setblocking(True)
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) and client.fileno() > 0
            assert accepted.proto == socket.IPPROTO_TCP, "asyncio looks at this one"
