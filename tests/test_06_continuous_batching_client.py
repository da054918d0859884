"""The client: bytes cut anywhere, the clock's arithmetic, and servers that do everything wrong."""

import asyncio
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mock_openai import STREAM, MockServer, answer, event, framed

from minillm.errors import MiniLLMError
from minillm.load.client import Client
from minillm.load.client_http import Address, Connection, Pool, Response, address
from minillm.load.client_sse import Parser, Trouble, read_chunk
from minillm.metrics import summary
from minillm.metrics.events import (
    ARRIVED,
    CACHED,
    CANCELLED,
    ENDS,
    FAILED,
    FINISHED,
    PROMPT_USAGE,
    REFUSED,
    TOKEN,
    USAGE,
    EventLog,
)

# --- bytes, cut anywhere ------------------------------------------------------------------------------------------------------


def pieces(data, cuts):
    bounds = sorted({min(c, len(data)) for c in cuts} | {0, len(data)})
    return [data[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]


def parsed(parts):
    parser = Parser()
    return [event for part in parts for event in parser.feed(part)] + parser.close()


cuts = st.lists(st.integers(0, 400), max_size=30)
lines = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=12)


@given(st.lists(st.lists(lines, min_size=1, max_size=3), max_size=6), st.sampled_from(["\n", "\r\n", "\r"]), cuts, st.booleans())
def test_events_are_the_same_however_their_bytes_arrive(events, end, cuts, talkative):
    """Multi-byte characters split, all three line ends, comments and other fields in between."""
    noise = f": comment é{end}id: 7{end}retry{end}" if talkative else ""
    text = "".join(noise + "".join(f"data: {line}{end}" for line in data) + end for data in events)
    assert parsed(pieces(text.encode(), cuts)) == ["\n".join(data).encode() for data in events]


@given(st.data())
def test_mixed_line_ends_one_byte_at_a_time(data):
    ends = st.sampled_from(["\n", "\r\n"])
    text = "".join(f"data: {i}{data.draw(ends)}{data.draw(ends)}" for i in range(5))
    assert parsed([bytes([b]) for b in text.encode()]) == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize(
    ("text", "events"),
    [
        ("", []),
        ("\n\n\n", []),
        (":\n\n: x\n\n", []),
        ("data\n\n", [b""]),
        ("data:x\ndata:  y\n\n", [b"x\n y"]),
        ("data: no empty line at the end", [b"no empty line at the end"]),
        ("data: a\r\n", [b"a"]),
        ("\ufeffdata: after a mark of byte order\n\n", [b"after a mark of byte order"]),
        ("event: message\ndata: x\n\ndatum: y\n\n", [b"x"]),
        ("data: [DONE]\n\n", [b"[DONE]"]),
        ("data: a\x0bb\x0cc\x85d\u2028e\n\n", ["a\x0bb\x0cc\x85d\u2028e".encode()]),
    ],
)
def test_lines_of_the_standard(text, events):
    assert parsed([text.encode()]) == events == parsed([bytes([b]) for b in text.encode()])


def test_an_event_is_seen_as_soon_as_its_empty_line_is_there():
    parser = Parser()
    assert parser.feed(b"data: a\n") == [] and parser.feed(b"\n") == [b"a"]
    assert parser.feed(b"data: b\r\n\r") == [b"b"] and parser.feed(b"\ndata: c\r\r") == [b"c"]


@pytest.mark.parametrize("part", [b"x" * 65536, b"data: " + b"y" * 65530, b"data: z\n" * 8192])
def test_an_event_without_an_end_is_refused(part):
    parser = Parser()
    with pytest.raises(Trouble, match="at most 1,048,576 bytes"):
        for _ in range(200):
            parser.feed(part)


class Pieces:
    """A stream whose reads give these parts, and then the end. What is written to it is lost."""

    def __init__(self, parts):
        self.parts = [STREAM, *parts]

    async def read(self, most):
        return self.parts.pop(0) if self.parts else b""

    async def drain(self):
        pass

    def write(self, data):
        pass


def unframed(parts):
    """The body of a chunked answer that arrives in these parts."""

    async def go():
        stream = Pieces(parts)
        connection = Connection(stream, stream)
        head = await connection.ask("GET", "/", [("Host", "h")], b"")
        return await Response(head, connection, Pool(address("http://h"))).text()

    return asyncio.run(go())


@given(st.lists(st.binary(max_size=40), max_size=8), cuts, st.sampled_from([b"", b";a=b"]), st.sampled_from([b"", b"X: y\r\n"]))
def test_chunks_are_put_together_however_they_arrive(parts, cuts, extension, trailer):
    parts = [p for p in parts if p]
    body = b"".join(b"%X%s\r\n%s\r\n" % (len(p), extension, p) for p in parts) + b"0\r\n" + trailer + b"\r\n"
    assert unframed(pieces(body, cuts)) == b"".join(parts)


@pytest.mark.parametrize("trailer", [b"", b"X: y\r\n", b"X: y\r\nZ: 0\r\n"])
def test_a_chunked_body_is_done_at_its_very_end_and_not_before(trailer):
    body = b"2\r\nab\r\n0\r\n" + trailer + b"\r\n"
    assert unframed([body[i : i + 1] for i in range(len(body))]) == b"ab"
    with pytest.raises(Trouble, match="in the middle of its answer"):
        unframed([body[:-1]])


@pytest.mark.parametrize("bad", [b"x\r\n", b"-1\r\n", b"\r\n", b"1" * 21 + b"\r\n", b"0x5\r\n", b"5" * 70_000])
def test_a_chunk_without_a_size_is_refused(bad):
    with pytest.raises(Trouble, match="not http: "):
        unframed([bad])


def test_without_h11_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "h11", None)
    with pytest.raises(MiniLLMError, match=r"pip install 'minillm-course\[serve\]'"):
        Client("http://h")


def test_what_a_chunk_of_either_api_says():
    text = read_chunk(b'{"choices": [{"index": 1, "text": "a", "finish_reason": "stop"}, {"index": 0, "text": ""}]}')
    assert text.pieces == [(1, "a", 1)] and text.finish == {1: "stop"} and text.usage is None
    chat = read_chunk(b'{"choices": [{"delta": {"role": "assistant", "content": "b"}}]}')
    assert chat.pieces == [(0, "b", 1)]
    assert read_chunk(b'{"choices": [{"delta": {"content": null, "reasoning_content": "hm"}}]}').pieces == [(0, "hm", 1)]
    assert read_chunk(b'{"choices": [], "usage": {"completion_tokens": 3}}').usage == {"completion_tokens": 3}
    several = [{"text": "abc", "logprobs": {"tokens": ["a", "b", "c"]}}, {"index": 1, "text": "de", "token_ids": [7, 8]}]
    assert [n for _, _, n in read_chunk(json.dumps({"choices": several})).pieces] == [3, 2]
    odd = read_chunk(b'{"choices": [{"index": [], "text": 5, "delta": [], "logprobs": 3, "finish_reason": []}], "usage": 4}')
    assert odd.pieces == [] and odd.finish == {} and odd.usage is None
    assert read_chunk(b" [DONE] ") is None


@pytest.mark.parametrize(
    ("data", "words"),
    [
        *((bad, "expected JSON") for bad in (b"hello", b"[", b"\xff\xfe", b"[" * 100_000)),
        *((bad, "expected an object with choices") for bad in (b"[]", b'{"choices": 5}', b'{"choices": [5]}', b"5")),
        (b'{"error": {"message": "out of\\nmemory"}}', "error in the stream: out of memory"),
        (b'{"error": "no"}', "error in the stream: no"),
    ],
)
def test_what_is_no_chunk_is_refused(data, words):
    with pytest.raises(Trouble, match=words) as error:
        read_chunk(data)
    assert len(str(error.value)) < 300


def test_addresses():
    assert address("http://a.b:80/v1/") == Address(False, "a.b", 80, "") == address("a.b")
    assert address("https://a/x/v1") == Address(True, "a", 443, "/x") and address("http://[::1]:5").host == "::1"
    bad_ports, bad_parts = ("http://a:b", "http://a:99999"), ("http://a?x", "http://a#x", "http://u@a", "http://a b", "a\nb")
    for bad in ("", "ftp://a", "http://", *bad_ports, *bad_parts):
        with pytest.raises(MiniLLMError):
            address(bad)


# --- the clock's arithmetic, exactly ------------------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class FakePool:
    """Answers with given bytes at given times of the fake clock."""

    def __init__(self, clock, script):
        self.clock, self.script = clock, script

    async def send(self, method, path, body):
        return self

    status, headers = 200, {"content-type": "text/event-stream"}

    async def body(self):
        for at, data in self.script:
            self.clock.now = at
            yield data

    def close(self):
        pass


def watch(script, clock=None):
    clock = clock or Clock()
    client = Client("http://x", "m", log=EventLog(clock))
    client.pool = FakePool(clock, script)
    outcome = asyncio.run(client.complete(0, b"", 7))
    return outcome, client.log, summary.measure(client.log, 0)


def says(text, **more):
    return event({"choices": [{"index": 0, "text": text, **more}]})


def test_fifty_milliseconds_and_then_twenty_tokens_every_ten():
    script = [(0.05 + 0.01 * i, says("t")) for i in range(20)]
    outcome, log, m = watch([*script, (0.3, event({"choices": [], "usage": {"completion_tokens": 20}}) + event(b"[DONE]"))])
    assert outcome.error is None and outcome.texts == {0: "t" * 20}
    assert (m.prompt_tokens, m.new_tokens) == (7, 20)
    assert m.ttft == pytest.approx(0.05) and m.tpot == pytest.approx(0.01) and m.e2e == pytest.approx(0.24)
    assert m.gaps == pytest.approx([0.01] * 19) and m.normalized == pytest.approx(0.012)


def test_what_holds_no_text_is_no_token():
    """A role, an empty text, a comment and the usage come at their times; none of them is the first or the last token."""
    role = event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
    script = [(1, role), (2, b": wait\n\n"), (3, says("a")), (4, says("")), (5, says("b")), (6, says("", finish_reason="stop"))]
    outcome, log, m = watch([*script, (9, event(b"[DONE]"))])
    assert log.times(0, TOKEN) == [3, 5] and (m.ttft, m.tpot, m.e2e) == (3, 2, 5) and outcome.finish_reason == "stop"


def test_a_chunk_is_timed_when_it_is_whole():
    a, b = says("é…"), says("b")
    outcome, log, m = watch([(1, a[:-5]), (2, a[-5:-1]), (3, a[-1:] + b[:9]), (4, b[9:]), (5, event(b"[DONE]"))])
    assert log.times(0, TOKEN) == [3, 4] and outcome.texts == {0: "é…b"}


def test_chunks_with_several_tokens():
    both = says("ab", token_ids=[1, 2])
    _, log, m = watch([(1, both), (2, both), (4, both), (4, event(b"[DONE]"))])
    assert m.new_tokens == 6 and m.tpot == 3 / 5 and m.gaps == [1, 2]


def test_the_count_of_the_server_holds():
    usage = {"prompt_tokens": 31, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 16}}
    _, log, m = watch([(1, says("ab")), (3, says("cd")), (3, event({"choices": [], "usage": usage}) + event(b"[DONE]"))])
    assert (m.prompt_tokens, m.new_tokens, m.tpot) == (31, 9, 2 / 8)
    assert [e.tokens for kind in (PROMPT_USAGE, USAGE, CACHED) for e in log.events_of(0) if e.kind == kind] == [31, 9, 16]


@pytest.mark.parametrize("usage", [*({"completion_tokens": bad} for bad in ("9", -1, True, 2.5, None)), {}, 5, None])
def test_a_usage_that_is_no_count_is_left_out(usage):
    _, log, m = watch([(1, says("a")), (3, event({"choices": [], "usage": usage})), (3, event(b"[DONE]"))])
    assert m.new_tokens == 1


def test_several_answers_are_kept_apart():
    script = [(t, event({"choices": [{"index": i, "text": f"{i}"}]})) for t, i in ((1, 1), (2, 0), (4, 1), (8, 0))]
    outcome, log, m = watch([*script, (9, event(b"[DONE]"))])
    assert outcome.texts == {0: "00", 1: "11"} and m.gaps == [3, 6] and (m.ttft, m.tpot, m.e2e) == (1, 4.5, 8)


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        ([], "disconnected"),
        ([(1, says("a"))], "disconnected"),
        ([(1, event(b"[DONE]"))], "empty"),
        ([(1, says("", finish_reason="stop"))], "empty"),
        ([(1, says("a")), (2, b"data: {oops\n\n")], "not a stream"),
        ([(1, says("a")), (2, event({"error": {"message": "boom"}}))], "error in the stream"),
        ([(1, b"<html>" * 200_000)], "not a stream"),
    ],
)
def test_a_stream_that_breaks_has_a_name_and_no_latency(script, kind):
    outcome, log, m = watch(script)
    assert outcome.error == kind and m is None and log.events_of(0)[-1].kind == FAILED
    assert summary.latencies(log, 0) == (None, None, None)


@pytest.mark.parametrize("end", [says("", finish_reason="stop"), b"data: [DONE]", event(b"[DONE]") + b"garbage"])
def test_endings_that_are_whole(end):
    outcome, log, m = watch([(1, says("a")), (2, says("b")), (9, end)])
    assert outcome.error is None and m.tpot == 1 and outcome.texts == {0: "ab"}


# --- over a socket -----------------------------------------------------------------------------------------------------------


def ask(behave=None, requests=1, timeout=20.0, **options):
    """Requests one after another to a mock server: outcomes, log, server."""

    async def go():
        async with MockServer(tokens=3, behave=behave) as server:
            client = Client(server.url, "mock", timeout=timeout, **options)
            outcomes = [await client.complete(i, client.body("a b c", 3), 3) for i in range(requests)]
            client.close()
            return outcomes, client.log, server

    return asyncio.run(go())


@pytest.mark.parametrize("chat", [False, True])
def test_both_apis_stream_and_keep_their_connection(chat):
    outcomes, log, server = ask(requests=4, chat=chat)
    assert [o.error for o in outcomes] == [None] * 4 and server.connections == 1
    assert all(o.texts == {0: "tok tok tok "} and o.finish_reason == "length" for o in outcomes)
    assert all(log.times(i, USAGE) and summary.measure(log, i).prompt_tokens == 3 for i in range(4))
    for i in range(4):
        assert [e.kind for e in log.events_of(i)] == [ARRIVED, TOKEN, TOKEN, TOKEN, PROMPT_USAGE, USAGE, FINISHED]
        assert log.times(i, TOKEN) == sorted(log.times(i, TOKEN))


def test_what_is_asked():
    _, _, server = ask(api_key="s3cret", options={"ignore_eos": True})
    path, headers, fields = server.asked[0]
    assert path == "/v1/completions" and headers["authorization"] == "Bearer s3cret"
    assert fields == {"model": "mock", "max_tokens": 3, "temperature": 0, "stream": True, "prompt": "a b c", "ignore_eos": True,
                      "stream_options": {"include_usage": True}}  # fmt: skip
    _, _, server = ask(chat=True)
    path, headers, fields = server.asked[0]
    assert path == "/v1/chat/completions" and "authorization" not in headers
    assert fields["messages"] == [{"role": "user", "content": "a b c"}] and "prompt" not in fields


def sends(*data, close=True):
    async def behave(server, writer, fields):
        for part in data:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        if close:
            writer.close()
        return True

    return behave


TOKEN_CHUNK = framed(says("a"))


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        ([], "disconnected", "before it answered"),
        ([b"HTTP/1.1 200"], "not http", "200"),
        ([b"garbage\r\n\r\n"], "not http", "garbage"),
        ([b"\x16\x03\x01\x00" * 30_000], "not http", ""),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\n"], "not http", "five"),
        ([STREAM, b"zz\r\n"], "not http", "chunk header"),
        ([STREAM, TOKEN_CHUNK], "disconnected", "in the middle"),
        ([STREAM, TOKEN_CHUNK[:-5]], "disconnected", "in the middle"),
        ([STREAM, TOKEN_CHUNK, b"0\r\n\r\n"], "disconnected", "finish_reason"),
        ([STREAM, framed(event(b"{"))], "not a stream", "JSON"),
        ([STREAM, *[framed(b"data: " + b"x" * 60_000)] * 40], "not a stream", "at most"),
        ([answer(200, {"choices": []})], "not a stream", "application/json"),
        ([answer(200, b"<html>", "text/html")], "not a stream", "text/html"),
        ([answer(500, {"error": {"message": "it broke"}})], "http 500", "it broke"),
        ([answer(500, b"\xff\x00 broken \r\n text")], "http 500", "broken"),
        ([answer(429, {"error": {"message": "later"}})], "http 429", "later"),
        ([answer(503, b"")], "http 503", ""),
        ([answer(404, {"detail": [1]})], "http 404", "1"),
        ([answer(302, b"")], "http 302", ""),
    ],
)
def test_hostile_servers_have_a_name_each(data, kind, words):
    outcomes, log, _ = ask(sends(*data))
    assert outcomes[0].error == kind and words in outcomes[0].message
    assert "\n" not in outcomes[0].message and len(outcomes[0].message) < 300
    end = REFUSED if kind in ("http 429", "http 503") else FAILED
    assert [e.kind for e in log.events_of(0) if e.kind in ENDS] == [end] and summary.measure(log, 0) is None


def test_a_server_that_never_answers_runs_into_the_time_limit():
    async def silent(server, writer, fields):
        await asyncio.sleep(60)

    outcomes, log, _ = ask(silent, timeout=0.05)
    assert outcomes[0].error == "timeout" and "0.05 s" in outcomes[0].message and log.events_of(0)[-1].kind == FAILED


def test_a_server_that_stops_in_the_middle_runs_into_it_too():
    async def half(server, writer, fields):
        writer.write(STREAM + TOKEN_CHUNK)
        await asyncio.sleep(60)

    outcomes, log, _ = ask(half, timeout=1.0)
    assert outcomes[0].error == "timeout" and len(log.times(0, TOKEN)) == 1 and summary.measure(log, 0) is None


def test_an_answer_is_whole_at_done_even_if_the_server_keeps_the_body_open():
    async def lingers(server, writer, fields):
        writer.write(STREAM + TOKEN_CHUNK + framed(event(b"[DONE]")))
        await asyncio.sleep(60)

    outcomes, _, server = ask(lingers, requests=2)
    assert [o.error for o in outcomes] == [None, None] and server.connections == 2


def test_a_body_without_a_length_ends_with_its_connection():
    head = b"HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    outcomes, _, server = ask(sends(head, says("a"), event(b"[DONE]")), requests=2)
    assert [o.error for o in outcomes] == [None, None] and server.connections == 2


def test_after_an_informational_answer_comes_the_real_one():
    outcomes, _, _ = ask(sends(b"HTTP/1.1 100 Continue\r\n\r\n", STREAM, TOKEN_CHUNK, framed(event(b"[DONE]")) + b"0\r\n\r\n"))
    assert outcomes[0].error is None


def test_a_kept_connection_that_has_died_is_replaced_without_an_error():
    """The server closes after each answer without having said so."""
    whole = b"".join([STREAM, TOKEN_CHUNK, framed(event(b"[DONE]")), b"0\r\n\r\n"])
    outcomes, _, server = ask(sends(whole), requests=3)
    assert [o.error for o in outcomes] == [None] * 3 and server.connections == 3 and len(server.asked) == 3


def test_a_connection_with_an_unread_rest_is_not_used_again():
    """An error body longer than what is read; the rest of it must not be taken for the next answer."""
    outcomes, _, server = ask(sends(answer(500, b"x" * 300_000), close=False), requests=2)
    assert [o.error for o in outcomes] == ["http 500"] * 2 and server.connections == 2


def test_connection_close_is_obeyed():
    whole = STREAM.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + TOKEN_CHUNK + framed(event(b"[DONE]")) + b"0\r\n\r\n"
    outcomes, _, server = ask(sends(whole, close=False), requests=2)
    assert [o.error for o in outcomes] == [None] * 2 and server.connections == 2


def test_no_server_is_there():
    async def go():
        async with MockServer() as server:
            url = server.url
        client = Client(url, "m")
        return await client.complete(0, b"{}"), client.log

    outcome, log = asyncio.run(go())
    assert outcome.error == "cannot connect" and [e.kind for e in log.events_of(0)] == [ARRIVED, FAILED]


def test_a_cancelled_request_is_logged_so_and_leaves_the_server():
    async def go():
        async with MockServer(ttft=30) as server:
            client = Client(server.url, "mock")
            task = asyncio.create_task(client.complete(0, client.body("a", 1)))
            while not server.asked:
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return client.log, client.pool._idle

    log, idle = asyncio.run(go())
    assert [e.kind for e in log.events_of(0)] == [ARRIVED, CANCELLED] and idle == []


def test_models_and_the_servers_that_have_none():
    async def go(behave=None, models=("a", "b")):
        async with MockServer(models=models) as server:
            return await Client(server.url).models()

    assert asyncio.run(go()) == ["a", "b"]

    async def bad(data):
        async def serve(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(data)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        try:
            return await Client(f"127.0.0.1:{server.sockets[0].getsockname()[1]}").models()
        finally:
            server.close()

    cases = [(answer(200, data), "not an OpenAI server") for data in (b"hi", {"data": 5}, {"data": [{}]})]
    cases += [(answer(401, {"error": {"message": "key"}}), "http 401"), (b"", "disconnected"), (b"SSH-2.0\r\n\r\n", "not http")]
    for data, kind in cases:
        with pytest.raises(Trouble) as trouble:
            asyncio.run(bad(data))
        assert trouble.value.kind == kind


def test_what_a_client_cannot_be_made_with():
    for bad in ({"timeout": 0}, {"timeout": float("nan")}, {"api_key": "a\r\nb"}, {"api_key": "ключ"}):
        with pytest.raises(MiniLLMError):
            Client("http://a", **bad)


def test_the_body_is_json_of_one_line():
    assert json.loads(Client("http://a", "m").body([5, 6, 7], 2))["prompt"] == [5, 6, 7]
