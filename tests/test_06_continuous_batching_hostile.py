"""Whatever strangers send, the answer is right or a proper error: never a 500, never a hang, never a KV block lost."""

import json
import socket
import subprocess
import sys
import threading

import pytest
import soak_server
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from server_help import PATIENCE_S, TOKENIZER, FakeEngine, call, is_error, opened, post, running, say, wait_until

from minillm.server.listen import raise_file_limit

TEXT, CHAT = "/v1/completions", "/v1/chat/completions"


@pytest.fixture(scope="module")
def server():
    engine = FakeEngine()
    with running(engine, read_s=0.5) as (port, _):
        yield port, engine


@pytest.fixture(autouse=True)
def alive(request):
    """After each test the server answers, rightly, and nothing is left in the engine."""
    yield
    if "server" in request.fixturenames:
        port, engine = request.getfixturevalue("server")
        wait_until(lambda: not engine.live, "nothing is left")
        assert post(port, TEXT, {"prompt": "hello", "max_tokens": 5})[2]["choices"][0]["text"] == say(
            TOKENIZER.encode("hello"), 5
        )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(), max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = [
    "prompt",
    "messages",
    "model",
    "n",
    "stop",
    "seed",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "stream",
    "stream_options",
    "logprobs",
    "top_logprobs",
    "user",
    "tools",
    "response_format",
    "echo",
    "priority",
    "ignore_eos",
]
bodies = st.one_of(
    st.binary(max_size=200),
    json_values.map(lambda v: json.dumps(v).encode()),
    st.tuples(st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=5), st.sampled_from(["prompt", "messages", ""])).map(
        lambda pair: json.dumps(
            {"prompt": {"prompt": "a"}, "messages": {"messages": [{"role": "user", "content": "a"}]}, "": {}}[pair[1]] | pair[0]
        ).encode()
    ),
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=bodies, path=st.sampled_from([TEXT, CHAT]))
def test_any_body_gets_an_answer_or_a_proper_error(server, body, path):
    status, headers, data = call(server[0], "POST", path, body)
    if status != 200:
        assert 400 <= status < 500 and is_error(json.loads(data)), (status, data[:200], body)
    elif headers["content-type"].startswith("text/event-stream"):
        assert data.endswith(b"data: [DONE]\n\n")
    else:
        assert json.loads(data)["choices"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(min_size=1, max_size=300),
    prefix=st.sampled_from([b"", b"POST /v1/completions HTTP/1.1\r\n", b"GET /health HTTP/1.1\r\nHost: x\r\n"]),
)
def test_any_bytes_on_the_wire_get_an_answer_or_a_closed_connection(server, data, prefix):
    with socket.create_connection(("127.0.0.1", server[0]), timeout=PATIENCE_S) as connection:
        connection.sendall(prefix + data + b"\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        answer = received(connection)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 ") and not answer.startswith(b"HTTP/1.1 5"), answer[:300]


def received(connection):
    data = b""
    try:
        while piece := connection.recv(1 << 16):
            data += piece
    except ConnectionResetError:
        pass
    return data


HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        HEAD + b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"a"',
        HEAD + b"Content-Length: -5\r\n\r\n",
        HEAD + b'Content-Length: 5\r\nContent-Length: 6\r\n\r\n{"a":',
        HEAD + b"Content-Length: 99999999999999999999\r\n\r\n",
        HEAD + b"Content-Length: abc\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
        b"\r\n" * 50_000,
        b"\x16\x03\x01\x02\x00\x01",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET " + b"/" * 70_000,
        b"\x00" * 1000,
        HEAD + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n",
        b"GET /%ff%fe/%00/../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://evil/health HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: x\r\n\r\n",
        HEAD + b'Content-Length: 26\r\n\r\n{"prompt":"a","stream":1}\nGARBAGE GARBAGE\r\n\r\n',
        HEAD + b'Content-Length: 14\r\n\r\n{"prompt":"a"}' + b"\x00\xff" * 500,
    ],
    ids=range(20),
)
def test_broken_http_is_answered_or_closed_within_the_read_limit(server, sent):
    with socket.create_connection(("127.0.0.1", server[0]), timeout=PATIENCE_S) as connection:
        try:
            connection.sendall(sent)
        except (ConnectionResetError, BrokenPipeError):
            return
        answer = received(connection)  # ends only when the server closes
    assert not answer.startswith(b"HTTP/1.1 5"), answer[:200]


def test_pipelined_requests_are_answered_in_order(server):
    body = [json.dumps({"prompt": "hello", "max_tokens": k}).encode() for k in (3, 4, 5)]
    with socket.create_connection(("127.0.0.1", server[0]), timeout=PATIENCE_S) as connection:
        connection.sendall(b"".join(HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(b), b) for b in body))
        with connection.makefile("rb") as file:
            answers = [one_answer(file) for _ in body]
    assert [len(answer["choices"][0]["text"]) for answer in answers] == [3, 4, 5]


def one_answer(file):
    """The next response of a connection: status 200, a length, JSON."""
    assert file.readline().startswith(b"HTTP/1.1 200")
    headers = {}
    while line := file.readline().strip():
        name, _, value = line.partition(b":")
        headers[name.lower()] = value
    return json.loads(file.read(int(headers[b"content-length"])))


def test_connections_that_end_at_any_byte_of_a_request(server):
    body = b'{"prompt":"hello","max_tokens":3}'
    whole = HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    for cut in range(0, len(whole), 3):
        with socket.create_connection(("127.0.0.1", server[0]), timeout=PATIENCE_S) as connection:
            connection.sendall(whole[:cut])


KILLED = """
import http.client, json, sys
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
body = json.dumps({"prompt": "a", "max_tokens": 250, "stream": True, "n": 2})
connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
print(connection.getresponse().readline(), flush=True)
import time
time.sleep(600)
"""


def test_a_client_killed_mid_stream_frees_its_request():
    engine = FakeEngine(delay=0.02)
    with running(engine) as (port, _):
        child = subprocess.Popen([sys.executable, "-c", KILLED, str(port)], stdout=subprocess.PIPE)
        try:
            assert child.stdout.readline().startswith(b"b'data: ")
            assert engine.live
            child.kill()
            took = wait_until(lambda: not engine.live, "its request is cancelled", seconds=5)
        finally:
            child.kill()
            child.communicate(timeout=PATIENCE_S)
    assert engine.cancelled == [0]
    print(f"freed {took * 1e3:.0f} ms after kill -9")


def test_a_thousand_connections_at_once():
    if (files := raise_file_limit()) < 2200:
        pytest.skip(f"both ends of 1,000 connections need 2,200 open files, this machine allows {files:,}")
    engine = FakeEngine(delay=0.02)
    with running(engine) as (port, _):
        held = [opened(port, TEXT, {"prompt": f"{k}", "max_tokens": 20}) for k in range(1000)]
        expected = [say(TOKENIZER.encode(f"{k}"), 20) for k in range(1000)]
        wrong = []

        def read(k):
            data = b""
            while b'"usage"' not in data and (piece := held[k].recv(1 << 16)):
                data += piece
            if expected[k].encode() not in data:
                wrong.append((k, data))
            held[k].close()

        readers = [threading.Thread(target=lambda s=s: [read(k) for k in range(s, 1000, 8)], daemon=True) for s in range(8)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(PATIENCE_S)
            assert not reader.is_alive()
    assert wrong == [] and len(engine.submitted) == 1000 and engine.cancelled == []


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the server's memory from /proc")
def test_a_small_storm_over_the_real_engine():
    """tests/soak_server.py is the large one, run by hand."""
    soak_server.check(soak_server.main(requests=200, connections=100, options=("--backend", "numpy")))
