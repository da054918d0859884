"""The load generator and its command against a server that answers by the clock, or does not answer as it should.

Times that a test asserts are those of a fake clock. What runs in real time is asserted in order and number only.
"""

import asyncio
import csv
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mock_openai import STREAM, MockServer, answer, event, framed
from server_help import SERVED, FakeEngine, running

from minillm import cli
from minillm.errors import MiniLLMError
from minillm.load import generator, workload
from minillm.load import report as shown
from minillm.load.client import Client, RequestResult
from minillm.load.traces import TraceRequest
from minillm.metrics import perfetto
from minillm.metrics.events import (
    ARRIVED,
    CANCELLED,
    FAILED,
    FINISHED,
    PREEMPTED,
    REFUSED,
    SCHEDULED,
    STEP,
    TOKEN,
    Event,
    EventLog,
)

# --- driving, on a clock of its own --------------------------------------------------------------------------------------


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time jumps to the next thing that is due: hours pass in no time, and always the same."""

    now = 0.0

    def time(self):
        return self.now

    def _run_once(self):
        if not self._ready and self._scheduled:
            self.now = max(self.now, self._scheduled[0].when())
        super()._run_once()


class VirtualClient:
    """Answers after a time of its own for each request; some fail."""

    def __init__(self, loop, seconds, fails=()):
        self.log, self.seconds, self.fails = EventLog(loop.time), seconds, fails
        self.under_way, self.most = 0, 0

    async def complete(self, number, body, prompt_tokens):
        self.log.add(number, ARRIVED, prompt_tokens)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await asyncio.sleep(self.seconds[number])
        except asyncio.CancelledError:
            self.log.add(number, CANCELLED)
            raise
        self.under_way -= 1
        if number in self.fails:
            self.log.add(number, FAILED)
            return RequestResult(number, "http 500")
        self.log.add(number, TOKEN)
        self.log.add(number, FINISHED)
        return RequestResult(number)


def virtually(requests, seconds, fails=(), **options):
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        client = VirtualClient(runner.get_loop(), seconds, fails)
        test = runner.run(generator.drive(client, requests, [b""] * len(requests), **options))
        return client, test


def due(*times):
    return [TraceRequest(5, 1, arrival=t) for t in times]


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 50)), min_size=1, max_size=20))
def test_an_open_loop_sends_at_its_times_however_slow_the_answers(pairs):
    times = sorted(t for t, _ in pairs)
    client, test = virtually(due(*times), [s for _, s in pairs])
    assert [client.log.times(i, ARRIVED) for i in range(len(pairs))] == [[pytest.approx(t, abs=1e-8)] for t in times]
    assert all(abs(test.lateness(i)) < 1e-6 for i in range(len(pairs))) and len(test.outcomes) == len(pairs)


@given(st.lists(st.floats(0.01, 50), min_size=1, max_size=25), st.integers(1, 6))
def test_a_closed_loop_is_a_queue_with_so_many_clerks(seconds, concurrency):
    """When each request is sent, by hand: the clerk who is free first takes the next."""
    client, test = virtually(due(*[None] * len(seconds)), seconds, concurrency=concurrency)
    free = [0.0] * concurrency
    for i, s in enumerate(seconds):
        start = min(free)
        free[free.index(start)] = start + s
        assert client.log.times(i, ARRIVED) == [pytest.approx(start)]
    assert client.most == min(concurrency, len(seconds)) and test.lateness(0) is None


def test_a_generator_that_is_late_says_so():
    """Making a request takes half a second of this clock; three are due at once."""

    async def go(client, loop):
        def slow():
            loop.now += 0.5
            return loop.now

        client.log.clock = slow
        return await generator.drive(client, due(0, 0, 0), [b""] * 3)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        client = VirtualClient(runner.get_loop(), [0, 0, 0])
        test = runner.run(go(client, runner.get_loop()))
    late = [test.lateness(i) for i in range(3)]
    assert late == sorted(late) and late[0] > 0 and late[2] >= late[0] + 1
    report = generator.report(test)
    assert report["generator_late_s"]["max"] == late[2] and "TOO MUCH" in shown.generator(report)


def test_errors_are_counted_by_name_and_have_no_latency():
    client, test = virtually(due(0, 1, 2, 3), [1, 0.001, 1, 0.001], fails={1, 3})
    report = generator.report(test, {"ttft": 2.0})
    assert report["errors"] == {"http 500": 2} and report["failed"] == 2 and report["finished"] == 2
    assert report["ttft_s"]["min"] == pytest.approx(1) and report["ttft_s"]["count"] == 2 and report["attainment"] == 0.5
    assert report["offered_per_s"] == pytest.approx(1) and report["planned"] == report["requests"] == 4
    lines = generator.rows(test)
    assert [r["error"] for r in lines] == ["", "http 500", "", "http 500"] and lines[1]["ttft_s"] is None


def stopped(requests, seconds, after, **options):
    async def go(client):
        task = asyncio.ensure_future(generator.drive(client, requests, [b""] * len(requests), **options))
        await asyncio.sleep(after)
        task.cancel()
        return await task

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        client = VirtualClient(runner.get_loop(), seconds)
        return client, runner.run(go(client))


@pytest.mark.parametrize(("options", "sent"), [({}, 3), ({"concurrency": 2}, 3)])
def test_stopped_it_cancels_what_is_under_way_and_keeps_what_is_done(options, sent):
    client, test = stopped(due(0, 1, 2, 10), [1, 9, 9, 9], 5, **options)
    assert test.stopped and len(client.log.requests()) == sent
    ends = [client.log.events_of(i)[-1].kind for i in range(sent)]
    assert ends == [FINISHED, CANCELLED, CANCELLED]
    assert [test.outcomes[i].error for i in range(sent)] == [None, "cancelled", "cancelled"]
    report = generator.report(test)
    assert report["stopped"] and report["errors"] == {"cancelled": 2} and report["finished"] == 1


# --- preparing -----------------------------------------------------------------------------------------------------------------


def against(requests, behave=None, server=None, **options):
    """A whole run against a mock server: (test, server, client)."""
    asked = {k: options.pop(k) for k in ("model", "chat") if k in options}

    async def go():
        async with MockServer(tokens=5, behave=behave, **(server or {})) as mock:
            client = Client(mock.url, **asked)
            try:
                return await generator.run(client, requests, **options), mock, client
            finally:
                client.close()

    return asyncio.run(go())


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("overhead", [0, 31])
def test_text_prompts_have_as_many_tokens_as_asked_whatever_a_template_adds(chat, overhead):
    requests = workload.at_times(workload.cut([TraceRequest(n, 5) for n in (40, 100, 700)]), [0, 0, 0])
    test, mock, client = against(requests, server={"overhead": overhead}, chat=chat)
    assert [row["prompt_tokens"] for row in generator.rows(test)] == [40, 100, 700]
    assert client.model == "mock" and [row["new_tokens"] for row in generator.rows(test)] == [5, 5, 5]
    assert sorted(test.log.requests()) == [0, 1, 2], "the probes are not part of the measurement"


def test_token_ids_are_sent_as_they_are():
    test, mock, _ = against(due(0.0), vocabulary=(7, 9))
    prompt = mock.asked[-1][2]["prompt"]
    assert len(prompt) == 5 and set(prompt) <= {7, 8} and prompt == workload.token_ids(TraceRequest(5, 1), 0, 0, (7, 9))


def test_a_server_that_does_not_say_how_it_counts_is_believed_to_count_words():
    async def silent(server, writer, fields):
        writer.write(STREAM + framed(event({"choices": [{"text": "a"}]})) + framed(event(b"[DONE]")) + b"0\r\n\r\n")
        return True

    test, mock, _ = against(due(0.0), silent)
    assert len(mock.asked[-1][2]["prompt"].split()) == 5 and test.outcomes[0].error is None


@pytest.mark.parametrize(
    ("options", "words"),
    [({"concurrency": 0}, "concurrency is at least 1"), ({"vocabulary": (1, 5), "chat": True}, "takes no token ids"),
     ({"model": "gpt"}, "no model 'gpt' on this server, it has mock"), ({"server": {"models": ()}}, "lists no models")],
)  # fmt: skip
def test_what_cannot_be_run_is_said_in_one_line(options, words):
    with pytest.raises(MiniLLMError, match=words):
        against(due(0.0), **options)
    with pytest.raises(MiniLLMError, match="at most 100,000,000"):
        against([TraceRequest(10_000_000, 1, arrival=0.0)] * 11)


def test_mixed_answers_are_all_accounted_for():
    """Every kind of bad answer in turn: as many ends as requests, and each has its name."""
    bad = [answer(429, {}), answer(500, {}), b"", b"nonsense\r\n\r\n", STREAM, None, None]

    async def behave(server, writer, fields):
        number = fields["max_tokens"] - 2  # -1: the probes
        if number < 0 or (data := bad[number % len(bad)]) is None:
            return False
        writer.write(data)
        writer.close()
        return True

    for concurrency in (None, 3):
        requests = [TraceRequest(5, 2 + i, arrival=0.001 * i) for i in range(35)]
        test, _, _ = against(requests, behave, concurrency=concurrency)
        report = generator.report(test)
        assert report["errors"] == {"disconnected": 10, "http 429": 5, "http 500": 5, "not http": 5}
        assert (report["finished"], report["refused"], report["failed"]) == (10, 5, 20) and report["unfinished"] == 0


# --- slots and spans ---------------------------------------------------------------------------------------------------------


def test_spans_of_a_servers_log_by_hand():
    kinds = [(0, ARRIVED), (1, SCHEDULED), (3, TOKEN), (4, SCHEDULED), (5, PREEMPTED), (7, SCHEDULED), (8, TOKEN), (9, FINISHED)]
    log = EventLog(events=[Event(4, kind, float(t)) for t, kind in kinds])
    names = ("queued", "prefill", "decode", "preempted", "prefill", "decode")
    times = (0, 1, 3, 5, 7, 8, 9)
    assert [s[2:] for s in perfetto.spans(log)] == list(zip(names, times, times[1:], strict=False))


def test_spans_of_a_clients_log_and_of_those_that_came_to_nothing():
    events = [Event(0, ARRIVED, 0.0), Event(1, ARRIVED, 1.0), Event(0, TOKEN, 2.0), Event(2, ARRIVED, 2.5)]
    events += [Event(0, TOKEN, 3.0), Event(0, FINISHED, 3.0), Event(1, REFUSED, 3.5), Event(3, ARRIVED, 3.75)]
    events += [Event(2, TOKEN, 4.0)]
    found = perfetto.spans(EventLog(events=events))
    assert [(s.slot, s.request, s.name, s.start, s.end) for s in found] == [
        (0, 0, "waiting", 0, 2), (0, 0, "decode", 2, 3), (1, 1, "waiting", 1, 3.5), (2, 2, "waiting", 2.5, 4)]  # fmt: skip


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 10)), min_size=1, max_size=25))
def test_a_slot_holds_one_request_at_a_time_and_there_are_no_more_than_needed(lives):
    events = [Event(i, ARRIVED, a) for i, (a, _) in enumerate(lives)]
    events += [Event(i, kind, a + n) for i, (a, n) in enumerate(lives) for kind in (TOKEN, FINISHED)]
    slots = perfetto.slots(EventLog(events=sorted(events, key=lambda e: e.time)))
    for i, (a, n) in enumerate(lives):
        for j, (b, m) in enumerate(lives[:i]):
            assert slots[i] != slots[j] or a + n <= b or b + m <= a
    most = max(sum(a <= t < a + n for a, n in lives) for t in range(41))
    assert set(slots.values()) == set(range(most))


def test_a_trace_is_what_perfetto_reads():
    events = [Event(0, ARRIVED, 10.0, 7), Event(-1, STEP, 10.5, 64), Event(0, TOKEN, 11.0), Event(0, FINISHED, 11.5)]
    log = EventLog(events=events)
    found = json.loads(json.dumps(perfetto.trace(log)))
    spans = [e for e in found["traceEvents"] if e["ph"] == "X"]
    assert [(e["name"], e["ts"], e["dur"], e["tid"]) for e in spans] == [("waiting 0", 0, 1e6, 0), ("decode 0", 1e6, 5e5, 0)]
    assert spans[0]["args"] == {"request": 0, "ended": "finished", "prompt_tokens": 7, "new_tokens": 1, "cached_tokens": 0}
    counters = [e for e in found["traceEvents"] if e["ph"] == "C"]
    assert [(e["ts"], e["args"]) for e in counters] == [(5e5, {"tokens": 64})]
    assert perfetto.trace(EventLog())["traceEvents"][0]["ph"] == "M"


# --- the command ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def mock():
    """start(...) -> a mock server in a thread of its own."""
    loops = []

    def start(**options):
        ready, server = threading.Event(), MockServer(**options)

        async def serve():
            async with server:
                stop = asyncio.Event()
                loops.append((asyncio.get_running_loop(), stop, thread))
                ready.set()
                await stop.wait()

        thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
        thread.start()
        assert ready.wait(10)
        return server

    yield start
    for loop, stop, thread in loops:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


def command(*arguments):
    return cli.main(["loadtest", *map(str, arguments)])


def test_the_command_reports_and_writes_everything(mock, tmp_path, capsys):
    server, out = mock(tokens=4), tmp_path / "new" / "folder"
    asked = ("--url", server.url, "--rate", 500, "--requests", 12, "--prompt-tokens", 20, "--new-tokens", 9)
    assert command(*asked, "--slo", "ttft=60,tpot=60", "--out", out, "--json") == 0
    printed = capsys.readouterr()
    found, text = json.loads(printed.out), printed.err
    assert printed.out.count("\n") == 1, "JSON alone: `| jq` works"
    assert found == json.loads((out / "loadtest.json").read_text()) and found["finished"] == 12 and found["attainment"] == 1.0
    assert found["ttft_s"]["count"] == 12 and found["itl_s"]["count"] == 36 and found["errors"] == {}
    for word in ("TTFT", "TPOT", "ITL", "E2E", "tokens/s out", "goodput", "late", "12 of 12 requests sent", "poisson at 500/s"):
        assert word in text
    with open(out / "requests.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [row["request"] for row in lines] == [str(i) for i in range(12)]
    assert {(row["prompt_tokens"], row["new_tokens"], row["finish_reason"]) for row in lines} == {("20", "4", "length")}
    assert (out / "loadtest.png").read_bytes()[:4] == b"\x89PNG"
    trace = json.loads((out / "trace.json").read_text())["traceEvents"]
    assert {e["args"]["request"] for e in trace if e["ph"] == "X"} == set(range(12))
    assert sorted(p.name for p in out.iterdir()) == ["loadtest.json", "loadtest.png", "requests.csv", "trace.json"]


def test_without_a_folder_nothing_is_written_and_the_command_says_how(mock, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command("--url", mock(tokens=2).url, "--rate", 500, "--requests", 3) == 0
    said = capsys.readouterr().out
    assert "nothing was written: --out DIR writes loadtest.json, requests.csv, loadtest.png, trace.json" in said
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_wants_a_key_is_told_from_one_that_refuses_it(capsys, monkeypatch):
    with running(FakeEngine(), replace(SERVED, max_length=100_000), api_key="right") as (port, _):
        asked = ("--url", f"http://127.0.0.1:{port}", "--rate", 500, "--requests", 2)
        assert command(*asked) == 2
        assert "wants an API key" in (said := capsys.readouterr().err) and "--api-key-env" in said and said.count("\n") == 1
        monkeypatch.setenv("A_KEY", "wrong")
        assert command(*asked, "--api-key-env", "A_KEY") == 2
        assert "does not take the key in A_KEY" in capsys.readouterr().err
        monkeypatch.setenv("A_KEY", "right")
        assert command(*asked, "--api-key-env", "A_KEY") == 0


def test_only_errors_are_a_report_too(mock, tmp_path, capsys):
    async def refuses(server, writer, fields):
        if fields["max_tokens"] == 1:
            return False
        writer.write(answer(429, {"error": {"message": "busy"}}))
        return True

    url = mock(behave=refuses).url
    assert command("--url", url, "--concurrency", 2, "--requests", 4, "--slo", "ttft=1", "--out", tmp_path, "--json") == 0
    printed = capsys.readouterr()
    found, text = json.loads(printed.out), printed.err
    assert found["errors"] == {"http 429": 4} and found["attainment"] == 0.0 and "4 http 429" in text and "none was seen" in text
    assert "http 429,busy" in (tmp_path / "requests.csv").read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--lengths", "sharegpt_8k", "--prompt-tokens", "50", "--new-tokens", "3", "--rate", "300"),
        ("--arrivals", "gamma", "--burstiness", "0.2", "--rate", "300"),
        ("--arrivals", "constant", "--rate", "300", "--token-ids", "5:9", "--ignore-eos"),
        ("--concurrency", "3", "--chat"),
        ("--trace", "{trace}", "--time-scale", "0.001"),
        ("--trace", "{trace}", "--rate", "300"),
        ("--trace", "{trace}", "--concurrency", "2"),
    ],
)
def test_every_way_to_ask(mock, tmp_path, capsys, arguments):
    trace = tmp_path / "azure.csv"
    rows = "".join(f"2023-11-16 18:15:{i:02}.5,{10 + i},2\n" for i in range(9))
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows)
    arguments = [a.replace("{trace}", str(trace)) for a in arguments]
    assert command("--url", mock().url, "--requests", 6, "--json", *arguments) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["finished"] == 6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--url", "{dead}"), "cannot connect"),
        (("--url", "ftp://x"), "a server is given as http://HOST:PORT"),
        (("--url", "{live}", "--model", "nope"), "no model 'nope' on this server, it has mock"),
        (("--url", "{live}", "--requests", "0"), "--requests must be at least 1, found 0"),
        (("--url", "{live}", "--rate", "0"), "rate"),
        (("--url", "{live}", "--rate", "nan"), "rate"),
        (("--url", "{live}", "--concurrency", "0"), "concurrency is at least 1"),
        (("--url", "{live}", "--prompt-tokens", "0"), "at least 1 token"),
        (("--url", "{live}", "--lengths", "azure_conv", "--new-tokens", "-1"), "at least 1 token"),
        (("--url", "{live}", "--slo", "speed=5"), "an objective is one of"),
        (("--url", "{live}", "--trace", "/nowhere"), "cannot be read"),
        (("--url", "{live}", "--lengths", "nothing"), "cannot be read"),
        (("--url", "{live}", "--trace", "x", "--lengths", "y"), "give one of them"),
        (("--url", "{live}", "--time-scale", "2"), "give --trace"),
        (("--url", "{live}", "--burstiness", "2"), "go together"),
        (("--url", "{live}", "--arrivals", "gamma"), "go together"),
        (("--url", "{live}", "--concurrency", "2", "--arrivals", "poisson"), "closed loop"),
        (("--url", "{live}", "--token-ids", "9:5"), "--token-ids takes two"),
        (("--url", "{live}", "--token-ids", "1:5", "--chat"), "takes no token ids"),
        (("--url", "{live}", "--api-key-env", "MINILLM_NO_SUCH_KEY"), "no environment variable MINILLM_NO_SUCH_KEY"),
        (("--url", "{live}", "--timeout", "0"), "time limit"),
    ],
)
def test_mistakes_are_one_line_and_status_2(mock, capsys, arguments, words):
    live = mock().url
    arguments = [a.replace("{live}", live).replace("{dead}", "http://127.0.0.1:9") for a in arguments]
    assert command(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("minillm: ") and captured.err.count("\n") == 1 and words in captured.err and captured.out == ""


def test_a_server_that_speaks_something_else_is_named_so(mock, capsys):
    async def page(server, writer, fields):
        writer.write(answer(200, b"<html>", "text/html"))
        return True

    assert command("--url", mock(behave=page).url) == 2
    assert "no OpenAI-compatible server" in capsys.readouterr().err


def test_the_key_is_sent_and_never_shown(mock, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("MINILLM_TEST_KEY", "s3cret-key")
    server = mock()
    asked = ("--url", server.url, "--requests", 2, "--rate", 500, "--api-key-env", "MINILLM_TEST_KEY")
    assert command(*asked, "--out", tmp_path, "--json") == 0
    assert {headers["authorization"] for _, headers, _ in server.asked} == {"Bearer s3cret-key"}
    captured = capsys.readouterr()
    assert "s3cret" not in captured.out + captured.err + "".join(p.read_text("latin-1") for p in tmp_path.iterdir())


def test_the_same_seed_asks_the_same(mock):
    servers = [mock(), mock(), mock()]
    for server, seed in zip(servers, (3, 3, 4), strict=True):
        assert command("--url", server.url, "--requests", 5, "--concurrency", 1, "--seed", seed) == 0
    first, second, third = ([fields.get("prompt") for _, _, fields in server.asked[3:]] for server in servers)
    assert first == second != third


@pytest.mark.skipif(os.name == "nt", reason="Control-C is sent as SIGINT")
def test_control_c_gives_the_report_of_what_is_done(mock, tmp_path):
    server = mock(tokens=2, behave=slow_after(3))
    arguments = ["--url", server.url, "--requests", "50", "--rate", "1000", "--out", str(tmp_path), "--json"]
    source = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from minillm.cli import main; "
    run = [sys.executable, "-c", f"{source}sys.exit(main({['loadtest', *arguments]!r}))"]
    process = subprocess.Popen(run, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(server.asked) < 3 + 50 and time.monotonic() < deadline:  # the list of models, two probes, all requests
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "stopped by Control-C" in err
    found = json.loads(out)
    assert found["stopped"] and found["finished"] == 3 and found["errors"] == {"cancelled": 47}
    assert len((tmp_path / "requests.csv").read_text().splitlines()) == 51


def slow_after(count):
    """Answers the probes and the first requests, and then never again."""

    async def behave(server, writer, fields):
        if sum("completions" in path for path, _, _ in server.asked) <= 2 + count:
            return False
        await asyncio.sleep(300)
        return True

    return behave


def test_a_picture_of_nothing_and_of_one(tmp_path):
    for test in (generator.LoadTest([], EventLog()), virtually(due(0.0), [1.0])[1]):
        result = {"server": "s", "model": "m", "workload": "w", **generator.report(test, {"ttft": 1.0})}
        assert shown.table(result) and len(shown.write(result, test, tmp_path)) == 4
        assert not any(isinstance(v, float) and math.isnan(v) for v in result.values())


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    test = generator.LoadTest([], EventLog())
    (tmp_path / "file").write_text("")
    with pytest.raises(MiniLLMError, match="cannot be written"):
        shown.write(generator.report(test), test, tmp_path / "file")
