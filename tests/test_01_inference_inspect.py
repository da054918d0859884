"""minillm inspect NAME: what a model of some shape takes and what fits where, from the formulas; files as before."""

import json

import pytest

from minillm.cli import main
from minillm.model.presets import PRESETS, preset


def facts(capsys, *arguments):
    assert main(["inspect", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_preset_is_weights_cache_and_what_fits(capsys):
    found = facts(capsys, "llama-3-70b", "--context", "131072")
    assert found["parameters"] == 70_553_706_496 and found["weight_bytes"]["16-bit"] == 2 * 70_553_706_496
    assert found["kv_bytes_per_token"] == 320 * 1024 and found["kv_bytes"] == 131072 * 320 * 1024
    assert found["kv_tokens"]["80 GB"]["16-bit"] == 0, "141 GB of weights do not fit"
    assert found["kv_tokens"]["192 GB"]["16-bit"] == (0.9 * 192e9 - 2 * 70_553_706_496) // (320 * 1024)
    assert main(["inspect", "llama-3-70b", "--context", "131072"]) == 0
    text = capsys.readouterr().out
    assert "42.9 GB for 131,072 tokens (the model knows 8,192)" in text and "does not fit" in text and "141 GB  H200" in text


def test_the_context_is_the_models_own_where_none_is_given(capsys):
    found = facts(capsys, "llama-3.1-70b")
    assert found["context"] == found["context_length"] == 131072


@pytest.mark.parametrize("name", [*PRESETS, "tiny --context 100"])
def test_every_shape_fits_into_80_columns(name, capsys):
    assert main(["inspect", *name.split(), *(["--context", "1"] if name in PRESETS else [])]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_a_model_that_comes_with_the_package_is_its_file(capsys):
    found = facts(capsys, "tiny")
    assert found["architecture"] == "llama" and found["path"].endswith("tiny.gguf")
    assert facts(capsys, "tiny", "--context", "64")["kv_bytes"] == 64 * found_token(capsys)


def found_token(capsys):
    return facts(capsys, "tiny", "--context", "1")["kv_bytes"]


@pytest.mark.parametrize(("name", "says"), [
    ("llama-3-71b", "did you mean 'llama-3-70b'"), ("nowhere/x.gguf", "No such file"), ("x.gguf", "No such file"),
])  # fmt: skip
def test_an_unknown_name_is_one_line(name, says, capsys):
    assert main(["inspect", name]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_no_context_of_nothing(capsys):
    assert main(["inspect", "llama-3-8b", "--context", "0"]) == 2
    assert "--context must be at least 1 token, found 0" in capsys.readouterr().err


def test_models_of_today_are_there():
    assert preset("llama-3.1-70b").context_length == 131072 and {"mistral-7b-v0.3", "qwen2.5-7b", "llama-3.2-1b"} <= set(PRESETS)
