"""The server over the real engine: what comes over the wire is what the model alone says, and nothing stays behind."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from server_help import PATIENCE_S, call, events, is_error, opened, post, running, wait_until

from minillm import LLM, SamplingParams
from minillm.cli.serve import KEEP, api_keys, build, configure, limits, scheduler_config, size
from minillm.engine.async_engine import AsyncEngine
from minillm.engine.engine import Engine
from minillm.errors import MiniLLMError
from minillm.model.defaults import default_sampling
from minillm.model.random_model import TINY, random_model
from minillm.scheduler.scheduler import SchedulerConfig
from minillm.server.app import Served
from minillm.server.metrics_page import MetricsPage, WatchedLog

openai = pytest.importorskip("openai", reason="the official client is not installed: pip install openai")
TEXT, CHAT = "/v1/completions", "/v1/chat/completions"
SMALL = replace(TINY, n_layers=2, d_model=64, n_heads=4, n_kv_heads=2, d_head=16, d_ff=128, context_length=512)
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def llm():
    return LLM(random_model(SMALL, backend="numpy"))


class Site:
    """A served model: the port, and the engine behind it to look into."""

    def __init__(self, llm, max_queue=256, **config):
        self.page = MetricsPage()
        self.log = WatchedLog()
        self.log.page = self.page
        self.config = SchedulerConfig(**{"num_blocks": 128, "block_size": 8, "max_sequences": 16, **config})
        self.engine = Engine(llm, self.config, log=self.log)
        self.front = AsyncEngine(self.engine, max_queue=max_queue)
        self.served = Served.from_llm(llm, "small", self.config.num_blocks * self.config.block_size)

    def running(self, **options):
        return running(self.front, self.served, self.page, **options)

    def idle(self):
        stats = self.front.stats()
        return stats["running"] == stats["waiting"] == stats["kv_blocks_used"] == 0 and not self.engine.running


@pytest.fixture(scope="module")
def site(llm):
    site = Site(llm)
    with site.running() as (port, _):
        site.port = port
        yield site
    assert site.idle()


def client(port, kind=openai.OpenAI):
    return kind(base_url=f"http://127.0.0.1:{port}/v1", api_key="unused", timeout=PATIENCE_S, max_retries=0)


@pytest.mark.parametrize(
    "sampling", [{"temperature": 0}, {"temperature": 1.0, "seed": 7}, {"temperature": 0.7, "top_p": 0.9, "seed": 3}], ids=str
)
def test_the_answer_is_that_of_the_model_alone(site, llm, sampling):
    with client(site.port) as api:
        answer = api.completions.create(model="small", prompt="Once upon", max_tokens=30, logprobs=4, **sampling)
        chat = api.chat.completions.create(model="small", messages=HELLO, max_tokens=30, **sampling)
        stream = api.completions.create(model="small", prompt="Once upon", max_tokens=30, stream=True, **sampling)
        streamed = "".join(chunk.choices[0].text for chunk in stream)
    alone = llm.generate("Once upon", SamplingParams(max_tokens=30, logprobs=4, **sampling))
    assert answer.choices[0].text == streamed == alone.text and answer.choices[0].finish_reason == alone.finish_reason
    assert answer.usage.completion_tokens == len(alone.token_ids) and answer.usage.prompt_tokens == len(alone.prompt_token_ids)
    assert chat.choices[0].message.content == llm.generate(llm.chat(HELLO), SamplingParams(max_tokens=30, **sampling)).text
    assert answer.choices[0].logprobs.token_logprobs == pytest.approx([r.logprob for r in alone.logprobs], abs=1e-5)
    assert all(len(top) in (4, 5) for top in answer.choices[0].logprobs.top_logprobs)


def test_n_answers_with_a_seed_differ_and_come_again(site, llm):
    ask = {"prompt": "hello", "n": 4, "seed": 11, "max_tokens": 20, "temperature": 1.0}
    texts = [c["text"] for c in post(site.port, TEXT, ask)[2]["choices"]]
    assert len(set(texts)) == 4 and texts == [c["text"] for c in post(site.port, TEXT, ask)[2]["choices"]]
    assert texts[0] == llm.generate("hello", SamplingParams(max_tokens=20, temperature=1.0, seed=11)).text


def test_a_stop_string_ends_the_text_before_it(site, llm):
    full = llm.generate("stop here", SamplingParams(max_tokens=40)).text
    stop = full[len(full) // 2 :][:5]
    with client(site.port) as api:
        answer = api.completions.create(model="small", prompt="stop here", max_tokens=40, temperature=0, stop=[stop])
    assert answer.choices[0].text == full[: full.index(stop)] and answer.choices[0].finish_reason == "stop"


def test_64_streams_at_once_say_what_each_says_alone(site, llm):
    async def main():
        async with client(site.port, openai.AsyncOpenAI) as api:

            async def one(k):
                options = {"include_usage": True}
                stream = await api.completions.create(
                    model="small",
                    prompt=f"prompt number {k % 8}",
                    max_tokens=10 + k % 8,
                    temperature=0,
                    stream=True,
                    stream_options=options,
                )
                chunks = [chunk async for chunk in stream]
                return "".join(c.choices[0].text for c in chunks[:-1]), chunks[-1].usage.completion_tokens

            return await asyncio.wait_for(asyncio.gather(*(one(k) for k in range(64))), PATIENCE_S)

    found = asyncio.run(main())
    alone = [llm.generate(f"prompt number {k}", SamplingParams(max_tokens=10 + k)) for k in range(8)]
    assert found == [(alone[k % 8].text, len(alone[k % 8].token_ids)) for k in range(64)]
    wait_until(site.idle, "nothing is left")


def test_usage_says_what_the_prefix_cache_saved(llm):
    site = Site(llm, prefix="hash")
    with site.running() as (port, _):
        prompt = "a shared beginning, long enough for some blocks: "
        usages = [post(port, TEXT, {"prompt": prompt + tail, "max_tokens": 3})[2]["usage"] for tail in ("one", "two")]
        assert [u["prompt_tokens_details"]["cached_tokens"] for u in usages] == [0, len(prompt) // 8 * 8]
        assert f"minillm_prefix_cache_hit_tokens_total {len(prompt) // 8 * 8}.0" in call(port, "GET", "/metrics")[2].decode()
        data = call(
            port, "POST", TEXT, {"prompt": prompt, "max_tokens": 3, "stream": True, "stream_options": {"include_usage": True}}
        )[2]
        assert events(data)[-2]["usage"]["prompt_tokens_details"]["cached_tokens"] == (len(prompt) - 1) // 8 * 8
        wait_until(site.idle, "blocks that are only kept are free")


def test_the_metrics_page_counts_what_was_served(llm):
    site = Site(llm, num_blocks=24)
    with site.running() as (port, _):
        ask = {"prompt": "p" * 20, "max_tokens": 60, "ignore_eos": True}
        threads = [threading.Thread(target=post, args=(port, TEXT, ask)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        page = call(port, "GET", "/metrics")[2].decode()
    assert 'minillm_requests_total{outcome="finished"} 8.0' in page and "minillm_generation_tokens_total 480.0" in page
    assert "minillm_time_to_first_token_seconds_count 8.0" in page and "minillm_time_per_output_token_seconds_count 8.0" in page
    preempted = sum(e.kind == "preempted" for e in site.log.events)
    assert f"minillm_preemptions_total {preempted:.1f}" in page and preempted > 0, "the pool holds fewer than eight"


def test_where_the_pool_holds_less_than_the_context_it_is_the_limit(llm):
    with Site(llm, num_blocks=8).running() as (port, _):  # 64 tokens
        _, _, values = post(port, CHAT, {"messages": HELLO, "ignore_eos": True})
        assert values["usage"]["total_tokens"] == 64 and values["choices"][0]["finish_reason"] == "length"
        status, _, values = post(port, TEXT, {"prompt": "x" * 64})
        assert status == 400 and "64" in values["error"]["message"] and values["error"]["code"] == "context_length_exceeded"
        assert post(port, TEXT, {"prompt": "x" * 63})[2]["usage"]["total_tokens"] == 64


def test_a_full_queue_is_a_429_and_every_other_answer_is_right(llm):
    site = Site(llm, max_queue=4, max_sequences=2)
    alone = llm.generate("hello", SamplingParams(max_tokens=40)).text
    with site.running() as (port, _):
        results = []
        ask = {"prompt": "hello", "max_tokens": 40, "temperature": 0}
        threads = [threading.Thread(target=lambda: results.append(post(port, TEXT, ask))) for _ in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
    statuses = [status for status, _, _ in results]
    assert len(statuses) == 24 and set(statuses) == {200, 429}
    for status, headers, values in results:
        if status == 200:
            assert values["choices"][0]["text"] == alone
        else:
            assert is_error(values) and int(headers["retry-after"]) >= 1
    assert site.idle()


KILLED = """
import http.client, json, sys, time
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
body = json.dumps({"prompt": "a", "max_tokens": 490, "stream": sys.argv[2] == "stream", "n": 2, "ignore_eos": True})
connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
print("sent", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("how", ["stream", "whole"])
def test_a_client_killed_mid_answer_frees_its_blocks(llm, how):
    site = Site(llm)
    slow, step = threading.Event(), site.engine.step
    site.engine.step = lambda: (slow.wait(0.01), step())[1]  # so slow that it is certainly not done
    with site.running() as (port, _):
        child = subprocess.Popen([sys.executable, "-c", KILLED, str(port), how], stdout=subprocess.PIPE)
        try:
            child.stdout.readline()
            wait_until(lambda: site.front.stats()["kv_blocks_used"] > 2, "it has blocks")
            child.kill()  # kill -9
            took = wait_until(site.idle, "its blocks are free", seconds=4)  # to its end it would be 5 s
        finally:
            child.kill()
            child.communicate(timeout=PATIENCE_S)
    assert any(e.kind == "cancelled" for e in site.log.events)
    print(f"{how}: blocks free {took * 1e3:.0f} ms after kill -9")


def test_an_error_of_the_engine_is_a_500_for_all_and_seen_in_health(llm):
    site = Site(llm)

    def broken():
        raise ZeroDivisionError

    with site.running() as (port, _):
        site.engine.step = broken
        status, _, values = post(port, TEXT, {"prompt": "a"})
        assert status == 500 and is_error(values)
        assert post(port, TEXT, {"prompt": "a"})[0] == 500
        assert call(port, "GET", "/health")[0] == 503


# --- the command ------------------------------------------------------------------------------------------------------------


class Child:
    """`minillm serve` in a process of its own, always ended."""

    def __init__(self, *options, env=None):
        command = [sys.executable, "-m", "minillm", "serve", "--port", "0", "--json", *map(str, options)]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "MINILLM_BACKEND": "numpy", **(env or {})},
        )

    def __enter__(self):
        self.timer = threading.Timer(2 * PATIENCE_S, self.process.kill)
        self.timer.start()
        self.said = self.process.stdout.readline()
        self.port = json.loads(self.said)["port"] if self.said else None
        return self

    def __exit__(self, *_):
        self.timer.cancel()
        self.process.kill()
        self.err = self.process.communicate(timeout=PATIENCE_S)[1]


def test_the_command_serves_and_stops_with_status_0(tiny_path, tiny):
    with Child("--model", tiny_path, "--name", "tiny", "--blocks", 64) as child:
        _, _, values = post(child.port, TEXT, {"model": "tiny", "prompt": "hello", "max_tokens": 8, "temperature": 0})
        assert values["choices"][0]["text"] == tiny.generate("hello", SamplingParams(max_tokens=8)).text
        child.process.send_signal(signal.SIGTERM)
        assert child.process.wait(PATIENCE_S) == 0
    assert "this machine alone" in child.err and "warning" not in child.err and "Traceback" not in child.err


def test_sigterm_under_load_every_accepted_request_finishes_or_gets_an_error(tiny_path, tiny):
    alone = tiny.generate("hello", SamplingParams(max_tokens=200, ignore_eos=True)).text
    ask = {"prompt": "hello", "max_tokens": 200, "temperature": 0, "ignore_eos": True}
    with Child("--model", tiny_path, "--blocks", 256, "--max-sequences", 8, "--grace", 0.5) as child:
        wholes = [opened(child.port, TEXT, ask) for _ in range(16)]
        streams = [opened(child.port, TEXT, {**ask, "stream": True}) for _ in range(16)]
        streams[0].recv(100)
        child.process.send_signal(signal.SIGTERM)
        counts = {"whole": 0, "error": 0}
        for connection in wholes:
            head, _, body = read_all(connection).partition(b"\r\n\r\n")
            values = json.loads(body)
            if head.startswith(b"HTTP/1.1 200"):
                assert values["choices"][0]["text"] == alone
            else:
                assert head.startswith(b"HTTP/1.1 503") and is_error(values)
            counts["whole" if "choices" in values else "error"] += 1
        for connection in streams:
            data = read_all(connection)
            done = b"data: [DONE]" in data
            assert done != (b'"error":' in data), data[-300:]
            counts["whole" if done else "error"] += 1
        assert child.process.wait(PATIENCE_S) == 0
    assert sum(counts.values()) == 32
    assert "Traceback" not in child.err, child.err
    print(f"SIGTERM under load: {counts}")


def read_all(connection):
    """Until the server closes. A reset in place of an answer would be a request dropped in silence."""
    with connection:
        data = b""
        while piece := connection.recv(1 << 16):
            data += piece
    assert data, "dropped without a word"
    return data


def test_the_key_comes_from_a_variable_or_a_file_and_a_missing_one_is_an_error(tiny_path, tmp_path, monkeypatch):
    file = tmp_path / "key"
    file.write_text("from-file\n")
    with Child("--model", tiny_path, "--api-key-file", file, "--order", "priority") as child:
        urgent = post(child.port, TEXT, {"prompt": "a", "priority": -5}, {"Authorization": "Bearer from-file"})
        assert urgent[0] == 200, "priority counts where the order is by priority"
        assert call(child.port, "GET", "/v1/models")[0] == 401
        assert call(child.port, "GET", "/v1/models", headers={"Authorization": "Bearer from-file"})[0] == 200
    monkeypatch.setenv("A_KEY", "from-env")
    assert api_keys(arguments("--api-key-env", "A_KEY")) == ("from-env",)
    monkeypatch.setenv("B_KEY", "other")
    file.write_text("first\n\n  second\n")
    given = arguments("--api-key-env", "A_KEY", "--api-key-env", "B_KEY", "--api-key-file", str(file))
    assert api_keys(given) == ("from-env", "other", "first", "second") and api_keys(arguments()) is None
    monkeypatch.setenv("A_KEY", "")
    for options in (["--api-key-env", "A_KEY"], ["--api-key-env", "NO_SUCH"], ["--api-key-file", str(tmp_path / "none")]):
        with pytest.raises(MiniLLMError):
            api_keys(arguments(*options))
    file.write_text("two words")
    with pytest.raises(MiniLLMError, match="9 characters"):
        api_keys(arguments("--api-key-file", str(file)))


def test_the_options_of_the_door_and_the_defaults_of_the_model_reach_the_server(tiny_path, tiny):
    page, keys = "http://localhost:3000", {"KEY_1": "a", "KEY_2": "b"}
    options = ["--cors", page, "--log-requests", "--batch-invariant", "--api-key-env", "KEY_1", "--api-key-env", "KEY_2"]
    with Child("--model", tiny_path, *options, env=keys) as child:
        headers = {"Authorization": "Bearer b", "Origin": page, "x-request-id": "id-7"}
        status, got, values = post(child.port, TEXT, {"prompt": "hello", "max_tokens": 12, "seed": 5}, headers)
        assert status == 200 and got["access-control-allow-origin"] == page and got["x-request-id"] == "id-7"
        child.process.send_signal(signal.SIGTERM)  # not killed: the log record is written after the answer is sent
        assert child.process.wait(PATIENCE_S) == 0
    usual = SamplingParams(max_tokens=12, seed=5, **default_sampling(tiny_path))
    assert values["choices"][0]["text"] == tiny.generate("hello", usual).text, "the model's file says nothing: the usual values"
    line = json.loads(next(line for line in child.err.splitlines() if line.startswith("{")))
    assert (line["request_id"], line["status"], line["usage"]) == ("id-7", 200, values["usage"])


@pytest.mark.parametrize("origin", ["localhost:3000", "http://a.b/", "HTTP://a.b", "http://a.b/path", "null", ""])
def test_what_is_no_origin_is_refused(origin):
    with pytest.raises(MiniLLMError, match="--cors"):
        limits(arguments("--cors", origin))


def test_a_door_open_to_other_machines_is_said_and_warned_of(tiny_path):
    with Child("--model", tiny_path, "--host", "0.0.0.0") as child:
        assert call(child.port, "GET", "/health")[0] == 200
    assert "other machines can reach it" in child.err and "warning" in child.err
    assert " on numpy at http://" in child.err or " on numba at http://" in child.err, "it says what auto chose"


def test_a_taken_port_is_one_line_and_status_2(tiny_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with Child("--model", tiny_path, "--port", taken.getsockname()[1]) as child:
            assert child.said == "" and child.process.wait(PATIENCE_S) == 2
    assert child.err.startswith("minillm: cannot listen") and child.err.count("\n") == 1


def arguments(*options):
    import argparse

    parser = argparse.ArgumentParser()
    configure(parser)
    return parser.parse_args(options)


def test_the_options_of_the_engine_reach_it():
    scheduling = ["--policy", "vllm", "--order", "fair", "--preemption", "swap", "--host-blocks", "5", "--prefix", "radix"]
    limits = ["--kv-memory", "1MiB", "--block-size", "4", "--max-sequences", "3", "--max-tokens-per-step", "64"]
    args = arguments(*scheduling, *limits)
    block = 2 * SMALL.n_layers * SMALL.n_kv_heads * SMALL.d_head * 4 * 4
    assert scheduler_config(args, SMALL) == SchedulerConfig(
        num_blocks=2**20 // block,
        block_size=4,
        host_blocks=5,
        max_sequences=3,
        max_tokens_per_step=64,
        policy="vllm",
        order="fair",
        preemption="swap",
        prefix="radix",
        context_length=512,
    )
    default = scheduler_config(arguments(), SMALL)
    assert (default.num_blocks, default.prefix, default.host_blocks) == (16 * 512 // 16, "hash", 0), (
        "every sequence a whole context"
    )
    with pytest.raises(MiniLLMError):
        scheduler_config(arguments("--kv-memory", "1k"), SMALL)


def test_the_engine_of_the_command_forgets_old_requests_and_hides_its_warming_up(llm):
    front, page, config = build(arguments("--blocks", "32", "--max-queue", "7"), llm)
    assert (front.max_queue, front.engine.log.keep_last, config.num_blocks) == (7, KEEP, 32)
    assert b"minillm_generation_tokens_total 0.0" in page.render(front.stats()) and front.stats()["kv_blocks_used"] == 0
    assert front.engine.executor.transformer is llm.transformer, "batch invariance is asked for, or not there"
    asked, _, _ = build(arguments("--blocks", "32", "--batch-invariant"), llm)
    assert asked.engine.executor.transformer.ops is not llm.transformer.ops
    front.engine.generate([[1, 2]], SamplingParams(max_tokens=3))
    assert b"minillm_generation_tokens_total 3.0" in page.render(front.stats())


@pytest.mark.parametrize(
    ("text", "expected"), [("500M", 500e6), ("2GiB", 2**31), ("1.5k", 1500), ("64", 64), ("3 mib", 3 * 2**20), ("7GB", 7e9)]
)
def test_sizes(text, expected):
    assert size(text) == expected


@pytest.mark.parametrize("text", ["", "x", "-1G", "1T", "G", "1e9", "1 2"])
def test_what_is_no_size(text):
    with pytest.raises(MiniLLMError, match="size"):
        size(text)
