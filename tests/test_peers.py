"""Peers are found where they are, asked what we say they are asked, and their tokens set beside ours. They are stand-ins here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from golden import tiny_models
from peer_help import noted, stand_ins

import minillm
from minillm.bench import agreement
from minillm.bench.compare import Prompts
from minillm.bench.machine import Machine
from minillm.bench.peers import environments
from minillm.bench.peers.models import built_for
from minillm.cli import main

MACHINE = Machine(read_bytes_per_s=1e10, flops_per_s=1e11, cores=2, cpu="?")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    tiny_models.write_tiny("llama", path)
    return path


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A virtual environment that holds stand-ins of all peers, and of ours nothing that would be seen: its folder."""
    folder = stand_ins(tmp_path, monkeypatch)
    monkeypatch.setenv("MINILLM_PEERS", "")
    monkeypatch.setattr("minillm.bench.machine.measure_machine", lambda **_: MACHINE)
    return folder


def following(tokens, count):
    """What the stand-ins say."""
    text = list(tokens)
    for _ in range(count):
        text.append((3 * sum(text) + len(text)) % 50)
    return text[len(tokens) :]


def bench(model, elsewhere, capsys, *more):
    options = ["--backend", "numpy", "--threads", "1", "--prompt-tokens", "12", "--new-tokens", "3", "--rounds", "2"]
    found = ["--peers", "openvino,vllm", "--peer-python", str(elsewhere), "--json"]
    assert main(["bench", "--model", str(model), *options, *found, *more]) == 0
    out, err = capsys.readouterr()
    return json.loads(out), err


def test_each_peer_is_measured_as_its_table_says(model, elsewhere, capsys):
    result, err = bench(model, elsewhere, capsys)
    assert list(result["engines"]) == ["minillm", "OpenVINO", "vLLM"]
    (openvino,), (vllm,) = noted("OpenVINO"), noted("vLLM")
    assert openvino["prefix"] is False and openvino["INFERENCE_NUM_THREADS"] == 1 and openvino["path"] == str(model)
    assert (vllm["enable_prefix_caching"], vllm["dtype"], vllm["skip_tokenizer_init"]) == (False, "bfloat16", True)
    assert vllm["files"] == ["config.json", "model.safetensors"]
    assert vllm["variables"]["VLLM_CPU_OMP_THREADS_BIND"].count(",") == 0
    assert all(not line["heavy"] for line in (openvino, vllm)), "a peer's python needs nothing of ours"
    assert result["engines"]["OpenVINO"]["precision"] == (
        "bfloat16, weights as its reader converts them, activations rounded to 8 bits in groups of 32, keys and values in 8 bits"
    )
    assert "rounded to 8 bits in groups of 32" in err and "start s" in err and result["engines"]["vLLM"]["load_s"] > 0


def test_prompts_are_new_in_every_round_and_the_same_for_every_peer(model, elsewhere, capsys):
    bench(model, elsewhere, capsys)
    prompts = [line["tokens"] for line in noted("prompt")]
    measured = [tuple(tokens) for tokens in prompts if len(tokens) == 12]
    assert len(measured) == 4 and len(set(measured)) == 2
    assert all(measured.count(prompt) == 2 for prompt in measured)


def test_a_table_of_batches_reads_new_prompts_where_none_are_kept(model, elsewhere, capsys):
    result, err = bench(model, elsewhere, capsys, "--batch", "1,3", "--peers", "vllm")
    assert [row["batch"] for row in result["rows"]] == [1, 1, 3] and "ours/it" in err
    prompts = [tuple(line["tokens"]) for line in noted("prompt") if len(line["tokens"]) == 12]
    assert len(prompts) == 2 + 2 * 1 + 2 * 3  # prefill, and two rounds of decode at each batch size
    decode = prompts[2:]
    assert len(set(decode)) == len(decode) and "vLLM" in result["agreement"]


@pytest.mark.parametrize("name", ["OpenVINO", "vLLM"])
def test_a_peer_says_its_tokens_and_times_of_every_step(model, elsewhere, monkeypatch, name):
    from minillm.bench.worker import workers

    monkeypatch.setenv("MINILLM_PEERS", str(elsewhere))
    prompts = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    with workers([name], model, 1) as asked:
        for _ in range(2):
            answer = asked[name].ask(prompts=prompts, steps=4)
            assert answer["tokens"] == [following(prompt, 5) for prompt in prompts]
            assert len(answer["step_s"]) == 4 and sum(answer["step_s"]) == pytest.approx(answer["decode_s"])


def test_our_tokens_are_those_of_generate(model):
    from minillm import LLM, SamplingParams
    from minillm.bench.peers.models import MiniLLM

    llm, engine = LLM(model, "numpy"), MiniLLM(str(model), 1, "numpy")
    prompts = [[5, 6, 7], [8, 9, 10]]
    params = SamplingParams(max_tokens=4, temperature=0, ignore_eos=True)
    expected = tuple(tuple(llm.generate(prompt, params).token_ids) for prompt in prompts)
    assert engine.run(prompts, 3).tokens == expected == engine.run(prompts, 3, again=True).tokens


# --- agreement --------------------------------------------------------------------------------------------------------------


def test_tokens_count_up_to_the_first_difference():
    ours = [[1, 2, 3, 4], [5, 6, 7, 8], [1, 1, 1, 1]]
    theirs = [[1, 2, 9, 4], [5, 6, 7, 8], [1, 9, 1, 1]]
    found = agreement.agreement(ours, theirs)
    assert found == {"agree": 7, "tokens": 12, "prompts_alike": 1, "prompts": 3, "first": {"prompt": 3, "token": 2}}
    same = agreement.agreement(ours, ours)
    assert (same["agree"], same["tokens"], same["prompts_alike"], same["first"]) == (12, 12, 3, None)
    engines = {name: {"load_s": 1.5, "precision": f"p{name}"} for name in ("minillm", "a", "b")}
    text = "\n".join(agreement.lines({"engines": engines, "agreement": {"a": found, "b": same}}))
    assert "7 of 12" in text and "token 2 of prompt 3" in text and "12 of 12" in text and "none" in text and "pb" in text
    assert agreement.lines({"engines": engines, "agreement": {}}) == []


def test_every_engine_is_asked_for_the_same_sentences(model):
    class Stub:
        def __init__(self, wrong):
            self.wrong, self.asked = wrong, []

        def ask(self, prompts, steps):
            (prompt,) = prompts
            self.asked.append((prompt, steps))
            return {"tokens": [[self.wrong if self.wrong and len(self.asked) == 2 else 0] * (steps + 1)]}

    workers = {"minillm": Stub(0), "peer": Stub(0), "rounded": Stub(1)}
    found = agreement.agreements(workers, model, 512)
    assert workers["minillm"].asked == workers["peer"].asked and len(workers["peer"].asked) == len(agreement.PROMPTS)
    assert found["peer"]["first"] is None and found["rounded"]["first"] == {"prompt": 2, "token": 1}
    assert found["rounded"]["tokens"] - found["rounded"]["agree"] == agreement.STEPS
    assert all(len(prompt) + steps + 1 <= 40 for prompt, steps in short(model))


def short(model):  # a context of 40 tokens: what is asked then
    class Note:
        asked = []

        def ask(self, prompts, steps):
            self.asked.append((prompts[0], steps))
            return {"tokens": [[0] * (steps + 1)]}

    agreement.agreements({"minillm": Note(), "peer": Note()}, model, 40)
    return Note.asked


def test_prompts_are_equal_by_their_number_and_not_by_who_asks():
    draw = Prompts(1000, 2, 5)
    first = draw("a"), draw("a")
    assert first == (draw("b"), draw("b")) and first[0] != first[1] and len(first[0]) == 2 and len(first[0][0]) == 5


# --- where they are -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def nothing_starts(monkeypatch):
    monkeypatch.setenv("MINILLM_PEERS", "")
    monkeypatch.setattr("minillm.bench.machine.measure_machine", lambda **_: pytest.fail("something was measured"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--peers", "openvino"], "OpenVINO is not installed; pip install openvino-genai, or name the environment that has it"),
        (["--peers", "VLLM", "--peer-python", sys.executable], "vLLM is in none of the 2 environments looked at"),
        (["--peers", "lama.cpp"], "no peer is called 'lama.cpp' here; did you mean 'llama.cpp'?"),
        (["--peers", "--peer-python", "nowhere"], "expected a python, or the folder of a virtual environment, found 'nowhere'"),
    ],
)
def test_a_peer_that_is_asked_for_and_missing_is_one_line(model, nothing_starts, capsys, options, says):
    assert main(["bench", "--model", str(model), *options]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_a_python_that_is_too_old_or_none_is_one_line(model, nothing_starts, capsys, tmp_path):
    for number, (answer, says) in enumerate(
        (("[[3, 9], []]", "must be Python 3.11 or newer, found 3.9"), ("no", "does not run"))
    ):
        python = tmp_path / f"python{number}"
        python.write_text(f"#!/bin/sh\necho '{answer}'\n")
        python.chmod(0o755)
        assert main(["bench", "--model", str(model), "--peers", "--peer-python", str(python)]) == 2
        assert says in capsys.readouterr().err


def test_peers_by_name_are_refused_for_a_folder(model, elsewhere, capsys, tmp_path):
    from minillm.model.write_folder import convert

    folder = convert(model, tmp_path / "folder")
    assert main(["bench", "--model", str(folder), "--peers", "vllm", "--peer-python", str(elsewhere)]) == 2
    assert "peers are measured on a GGUF file" in capsys.readouterr().err


def test_environments_are_asked_in_order_and_ours_last(elsewhere, monkeypatch):
    monkeypatch.setenv("MINILLM_PEERS", str(elsewhere))
    assert environments.pythons() == [str(elsewhere / "bin" / "python"), sys.executable]
    assert environments.python_with(("vllm",)) == str(elsewhere / "bin" / "python")
    assert environments.python_with(("vllm", "not_a_package")) is None
    assert environments.python_with(()) == sys.executable, "our own engine is measured in our own environment"
    environments.add_environments([sys.executable])
    assert environments.pythons() == [sys.executable, str(elsewhere / "bin" / "python"), sys.executable]


def test_the_workers_side_needs_the_standard_library_alone():
    """-S leaves out every installed package, -I our folder; the answer comes back over the pipe."""
    package = str(Path(minillm.__file__).parent)
    command = [sys.executable, "-I", "-S", "-c", environments.RUN, package, "minillm.bench.worker"]
    request = json.dumps({"engine": "OpenVINO", "path": "x", "threads": 1}) + "\n"
    done = subprocess.run(command, input=request, capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout) == {"error": "ModuleNotFoundError: No module named 'openvino'"}


def test_the_build_of_llama_cpp_is_told_by_its_instruction_sets():
    assert built_for("CPU : SSE3 = 1 | AVX2 = 1 | AVX512 = 0 | FMA = 1 | OPENMP = 1 | REPACK = 1 | ") == "AVX2, FMA"
    assert built_for("") == "any processor"
