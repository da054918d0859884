"""What clients of the server meet at its door: keys, origins of web pages, request ids, connections closed on one side."""

import json
import socket

import pytest
from server_help import CHAT, HELLO, PATIENCE_S, TEXT, TOKENIZER, FakeEngine, call, opened, post, running, say, wait_until
from server_help import openai_client as client

from minillm import __version__

openai = pytest.importorskip("openai", reason="the official client is not installed: pip install openai")


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
        kind = "Host: localhost\r\nContent-Type: application/json"
        head = f"POST {TEXT} HTTP/{version}\r\n{kind}\r\nContent-Length: {len(body)}\r\n\r\n"
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
