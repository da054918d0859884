"""The command line as a person meets it: answers, JSON, and one line with status 2 for every mistake."""

import json
import signal
import subprocess
import sys

import pytest

from minillm.cli import main


@pytest.fixture
def cli(capsys):
    """Run a command in this process: (status, standard output, standard error)."""

    def run(*argv):
        try:
            status = main([str(a) for a in argv])
        except SystemExit as exit_:
            status = exit_.code
        out, err = capsys.readouterr()
        return status, out, err

    return run


def test_help_names_every_command(cli):
    status, out, _ = cli("--help")
    assert status == 0
    assert all(command in out for command in ("tour", "generate", "chat", "download", "inspect", "bench", "backends"))


def test_generate_prints_the_text_and_then_json_with_units(cli, tiny_path):
    status, text, err = cli("generate", "--model", tiny_path, "--max-tokens", 5, "hello")
    assert status == 0 and "5 out" in err
    status, out, _ = cli("generate", "--model", tiny_path, "--max-tokens", 5, "--json", "hello")
    answer = json.loads(out.splitlines()[-1])
    assert answer["text"] == text.rstrip("\n") or text.startswith(answer["text"])
    assert len(answer["token_ids"]) == 5 and answer["finish_reason"] == "length"
    assert answer["prompt_tokens"] == len(answer["prompt_token_ids"])
    for key in ("ttft_s", "tpot_s", "prefill_tokens_per_s", "decode_tokens_per_s", "throughput_tokens_per_s", "peak_rss_bytes"):
        assert answer[key] > 0, key


def test_logprobs_come_with_json(cli, tiny_path):
    _, out, _ = cli("generate", "--model", tiny_path, "--max-tokens", 2, "--json", "--logprobs", 3, "hello")
    answer = json.loads(out.splitlines()[-1])
    assert [len(lp["top"]) for lp in answer["logprobs"]] == [3, 3]
    assert [lp["token_id"] for lp in answer["logprobs"]] == answer["token_ids"]
    assert all(lp["logprob"] == max(lp["top"].values()) for lp in answer["logprobs"]), "greedy takes the likeliest"


def test_the_same_seed_gives_the_same_text_and_another_seed_another(cli, tiny_path):
    def text(seed):
        options = ["--model", tiny_path, "--temperature", 1.5, "--max-tokens", 12, "--seed", seed, "--json"]
        return json.loads(cli("generate", *options, "hello")[1].splitlines()[-1])["token_ids"]

    assert text(1) == text(1) != text(2)


def test_chat_wraps_the_prompt_in_the_files_template(cli, tiny_path, tiny):
    _, out, _ = cli("generate", "--model", tiny_path, "--max-tokens", 1, "--chat", "--json", "hello")
    expected = tiny.chat([{"role": "user", "content": "hello"}])
    assert json.loads(out.splitlines()[-1])["prompt_token_ids"] == expected
    assert len(expected) > len(tiny.tokenizer.encode("hello"))


def make_bad_files(tmp_path):
    (tmp_path / "empty.gguf").write_bytes(b"")
    (tmp_path / "text.gguf").write_bytes(b"not a model at all, but long enough for a header" * 4)
    (tmp_path / "folder").mkdir()


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("missing.gguf", "missing.gguf"),
        ("empty.gguf", "empty"),
        ("text.gguf", "GGUF"),
        ("folder", "config.json"),
        ("smolm2-135m", "smollm2-135m"),
        ("hf:too/few", "hf:"),
    ],
)
def test_a_model_that_cannot_be_opened_is_one_line_and_status_2(cli, tmp_path, monkeypatch, model, says):
    make_bad_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    name = tmp_path / model if (tmp_path / model).exists() else model
    status, out, err = cli("generate", "--model", name, "hello")
    assert status == 2 and out == ""
    assert err.startswith("minillm: ") and err.count("\n") == 1 and says in err


def test_a_model_that_is_known_but_not_here_names_the_command_that_fetches_it(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("MINILLM_CACHE", str(tmp_path))
    for command in (["generate", "hello"], ["tour"], ["bench"]):
        status, _, err = cli(*command, "--model", "smollm2-135m")
        assert status == 2 and "minillm download smollm2-135m" in err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--temperature", "-1"], "temperature must be at least 0, found -1.0"),
        (["--top-p", "0"], "top_p must be above 0"),
        (["--max-tokens", "0"], "max_tokens must be at least 1, found 0"),
        (["--threads", "0"], "--threads must be at least 1"),
        (["--backend", "quantum"], "'quantum'"),
    ],
)
def test_an_option_out_of_range_is_one_line_and_status_2(cli, tiny_path, options, says):
    status, _, err = cli("generate", "--model", tiny_path, *options, "hello")
    assert status == 2 and says in err and err.count("\n") == 1


def test_a_prompt_longer_than_the_context_names_both_lengths(cli, tiny_path, tiny):
    context, prompt = tiny.config.context_length, "hello " * 400
    length = len(tiny.tokenizer.encode(prompt))
    assert length > context
    status, _, err = cli("generate", "--model", tiny_path, prompt)
    assert status == 2 and f"{length:,}" in err and f"{context:,}" in err and "--truncate left" in err
    status, out, _ = cli("generate", "--model", tiny_path, "--truncate", "left", "--max-tokens", 4, "--json", prompt)
    answer = json.loads(out.splitlines()[-1])
    assert status == 0 and len(answer["token_ids"]) == 4
    assert answer["prompt_token_ids"] == tiny.tokenizer.encode(prompt)[-(context - 4) :]


def test_an_empty_prompt_begins_at_the_begin_of_text_token(cli, tiny_path):
    status, out, _ = cli("generate", "--model", tiny_path, "", "--json", "--max-tokens", "3")
    assert status == 0 and len(json.loads(out)["prompt_token_ids"]) == 1


def test_a_file_of_another_architecture_names_the_supported_ones(cli, tmp_path):
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "mamba.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    status, _, err = cli("generate", "--model", tmp_path / "mamba.gguf", "hello")
    assert status == 2 and "mamba" in err and "llama" in err and "qwen2" in err


def test_control_c_ends_a_generation_without_a_traceback(tiny_path):
    command = [sys.executable, "-u", "-m", "minillm", "generate", "--model", str(tiny_path), "--max-tokens", "100000"]
    process = subprocess.Popen(
        [*command, "hello"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.read(1)  # it speaks
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.skip("the tiny model finished its context before the signal came")
    assert process.returncode == 130 and b"Traceback" not in err and b"stopped" in err


def test_a_reader_that_goes_away_is_no_error(tiny_path):
    command = [sys.executable, "-u", "-m", "minillm", "generate", "--model", str(tiny_path), "--max-tokens", "60", "hello"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(60) == 0 and b"Traceback" not in err


def test_chat_keeps_its_cache_between_turns(tiny):
    from minillm.llm import Conversation
    from minillm.model.sampling import SamplingParams

    params = SamplingParams(max_tokens=4, ignore_eos=True)
    talk = Conversation(tiny)
    "".join(talk.say("hello", params))
    "".join(talk.say("and again", params))
    assert talk.reused > len(tiny.tokenizer.encode("hello")), "the first turn is in the cache"
    whole = tiny.generate(talk.last.prompt_token_ids, params)
    assert talk.last.token_ids == whole.token_ids, "a cached beginning must not change the answer"


def test_chat_reads_lines_until_the_end(tiny_path):
    command = [sys.executable, "-m", "minillm", "chat", "--model", str(tiny_path), "--max-tokens", "3"]
    done = subprocess.run(command, input="hello\nagain\n", capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "Traceback" not in done.stderr


def test_bench_prints_figures_and_ceilings(cli, tiny_path, quick_machine):
    options = ["--prompt-tokens", 8, "--new-tokens", 2, "--batch", 2, "--rounds", 1, "--json"]
    status, out, _ = cli("bench", "--model", tiny_path, *options)
    result = json.loads(out.splitlines()[-1])
    assert status == 0
    assert result["engines"]["minillm"]["prefill_tokens_per_s"] > 0
    assert result["ceiling"]["decode_tokens_per_s"] > 0 and result["batch"] == 2


def test_tour_writes_its_table_and_picture(cli, tiny_path, tmp_path, quick_machine):
    status, out, _ = cli("tour", "--model", tiny_path, "--out", tmp_path / "out", "--json")
    result = json.loads(out.splitlines()[-1])
    assert status == 0 and [r["name"] for r in result["rungs"]][:2] == ["no cache", "KV cache"]
    assert all(r["same_tokens"] for r in result["rungs"])
    assert json.loads((tmp_path / "out" / "tour.json").read_text()) == result
    assert (tmp_path / "out" / "tour.png").read_bytes().startswith(b"\x89PNG")
    assert not list((tmp_path / "out").glob("*.part"))


def test_backends_lists_numpy(cli):
    status, out, _ = cli("backends", "--json")
    assert status == 0 and json.loads(out)["numpy"]["available"] is True

