"""`minillm train`: the configuration file, what is written, what is refused. The model is a toy (training_help.py)."""

import json
import math
import tomllib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_help import CONFIG, edit, refused, run_training, toy, use_toy, write_corpus

import minillm.cli
from minillm.cli import train
from minillm.errors import MiniLLMError, TrainingError
from minillm.model.random_model import byte_metadata
from minillm.training.config import read, toml_value
from minillm.training.curve import read_curve
from minillm.training.data import open_tokens
from minillm.training.prepare import beginnings


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a corpus and a configuration, and the toy in place of the model."""
    for name in ("task_for", "peak_flops"):
        monkeypatch.setattr(train, name, getattr(train, name))  # put back afterwards
    use_toy(train)
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path)
    (tmp_path / "train.toml").write_text(CONFIG.format(out="run", steps=9, every=4))
    return tmp_path


def test_it_writes_the_model_the_curve_the_picture_and_the_exact_configuration(here, capsys):
    assert run_training("--json") == 0
    said = capsys.readouterr()
    result = json.loads(said.out)
    run = here / "run"
    assert {p.name for p in run.iterdir()} == {
        "checkpoint.npz", "config.toml", "held_out.tokens", "loss.csv", "loss.png", "model.gguf", "train.tokens",
    }  # fmt: skip
    rows = said.err.splitlines()
    assert [line.split(" · ")[0] for line in rows] == ["step 4 of 9", "step 8 of 9", "step 9 of 9"], (
        "a log, as this is no terminal"
    )
    assert all("held out" in line and line.endswith(" left") for line in rows) and rows[-1].endswith("00:00 left")
    steps = read_curve(run / "loss.csv")
    assert [s.step for s in steps] == list(range(1, 10)) and result["loss"] == steps[-1].loss
    assert result["tokens"] == 9 * 2 * 3 * 8 and result["held_out_loss"] == steps[-1].held_out_loss is not None
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert read(run / "config.toml") == read("train.toml")
    written = tomllib.loads((run / "config.toml").read_text())
    assert written["optimizer"]["beta2"] == 0.95 and written["data"]["separator"] == "<|endoftext|>", "defaults are written out"


def test_documents_end_with_the_end_of_text_and_are_on_one_side(here):
    assert run_training() == 0
    both = [open_tokens(here / "run" / f"{side}.tokens") for side in ("train", "held_out")]
    ends = [int((f.ids == 258).sum()) for f in both]
    assert sum(ends) == 40 and min(ends) > 0 and ends[0] > ends[1] and all(f.ids[-1] == 258 for f in both)
    first = bytes(both[0].ids[: both[0].ids.tolist().index(258)].astype("u1")).decode()
    assert first in (here / "corpus.txt").read_text().split("<|endoftext|>")


def test_aligned_every_window_starts_at_the_end_of_the_document_before(here, monkeypatch):
    edit(here, "held_out = 0.2", "held_out = 0.2\naligned = true")
    seen, task_for = [], train.task_for

    def watched(*args):
        task = task_for(*args)

        def loss_and_gradients(parameters, tokens, targets):
            seen.append(tokens[:, 0].tolist())
            return task.loss_and_gradients(parameters, tokens, targets)

        return replace(task, loss_and_gradients=loss_and_gradients)

    monkeypatch.setattr(train, "task_for", watched)
    assert run_training() == 0
    first = int(open_tokens(here / "run" / "train.tokens").ids[0])
    firsts = [token for row in seen for token in row]
    assert len(firsts) == 9 * 2 * 3 and set(firsts) <= {258, first} and firsts.count(258) > 40


def test_aligned_without_an_end_of_text_says_what_is_missing():
    metadata = {k: v for k, v in byte_metadata(259).items() if k != "tokenizer.ggml.eos_token_id"}
    with pytest.raises(TrainingError, match="needs a tokenizer with an end of text, found none"):
        beginnings(metadata, np.array([1, 2, 258, 3]))
    assert beginnings(byte_metadata(259), np.array([1, 2, 258, 3, 258])).tolist() == [0, 2]


def test_a_run_is_not_trained_over_and_a_finished_one_resumes_to_itself(here, capsys):
    assert run_training() == 0
    before = (here / "run" / "checkpoint.npz").read_bytes()
    capsys.readouterr()
    assert "a run is there already" in refused(capsys)
    assert run_training("--resume") == 0
    assert (here / "run" / "checkpoint.npz").read_bytes() == before
    (here / "run" / "loss.csv").unlink()
    assert run_training("--resume") == 0


def test_resume_names_the_key_that_differs_or_that_there_is_nothing(here, capsys):
    assert "no checkpoint to resume" in refused(capsys, "--resume")
    assert run_training() == 0
    capsys.readouterr()
    edit(here, "learning_rate = 0.05", "learning_rate = 0.06")
    said = refused(capsys, "--resume")
    assert "optimizer.learning_rate is 0.05 in the checkpoint, 0.06 now" in said and said.count(" now") == 1
    edit(here, "learning_rate = 0.06", "learning_rate = 0.05")
    edit(here, "checkpoint_every = 4", "checkpoint_every = 2")
    assert run_training("--resume") == 0, "how often a run is saved changes no number"


def test_another_corpus_under_the_same_configuration_is_noticed(here, capsys):
    assert run_training() == 0
    capsys.readouterr()
    for side in ("train", "held_out"):
        (here / "run" / f"{side}.tokens").unlink()
    write_corpus(here, documents=41)
    assert "data.sha256 is" in refused(capsys, "--resume")


def test_a_loss_that_is_no_number_is_one_line_and_status_2(here, capsys):
    def bad(parameters, tokens, targets):
        return math.nan, {name: array * math.nan for name, array in parameters.items()}

    use_toy(train, loss_and_gradients=bad)
    said = refused(capsys)
    assert "step 1: the loss is nan, and 3 of 3 gradients are not finite" in said and "output.weight" in said
    assert not (here / "run" / "model.gguf").exists()


WRONG = [
    ("steps = 9", "steps = 0", "run.steps must be from 1 to 1e+09, found 0"),
    ("steps = 9", "steps = 9.0", "run.steps must be of type int, found 9.0"),
    ("steps = 9", "steps = true", "run.steps must be of type int, found True"),
    ("seed = 5", "sead = 5", "'sead' is no key in [run]; did you mean 'seed'?"),
    ("seed = 5", "seed = -1", "run.seed must be from 0"),
    ("[optimizer]", "[optimiser]", "'optimiser' is no table; did you mean 'optimizer'?"),
    ("[data]", "[[data]]", "data must be a table"),
    ("steps = 9\n", "", "[run] must say steps"),
    ('out = "run"', "out = 3", "run.out must be of type str, found 3"),
    ('out = "run"', 'out = " "', "run.out must be a path, found ' '"),
    ('out = "run"', 'out = "a\\u0000b"', "run.out must be a path"),
    ("held_out = 0.2", 'tokenizer = "none.gguf"', "none.gguf"),
    ("floor = 0.001", "floor = 0.1", "found 0.1 and 0.05"),
    ("floor = 0.001", "floor = nan", "optimizer.floor must be a finite number, found nan"),
    ("learning_rate = 0.05", "learning_rate = inf", "optimizer.learning_rate must be a finite number, found inf"),
    ("learning_rate = 0.05", "beta2 = 1.0\nlearning_rate = 0.05", "optimizer.beta2 must be from 0 to 0.999999, found 1.0"),
    ("warmup = 3", "warmup = 10", "optimizer.warmup is 10 steps, run.steps only 9"),
    ("length = 8", "length = 17", "run.length is 17, model.context_length holds 16"),
    ("n_heads = 1", "n_heads = 1\nrope_base = inf", "model.rope_base must be a finite number, found inf"),
    ("n_heads = 1", "n_heads = 0", "n_heads must be at least 1, found 0"),
    ("n_heads = 1", "rope_scaling = 1", "'rope_scaling' is no key in [model]"),
    ("vocab_size = 259", "vocab_size = 258", "at least 259, found 258"),
    ("held_out = 0.2", "held_out = 0.6", "data.held_out must be from 0 to 0.5, found 0.6"),
    ("held_out = 0.2", "held_out = 0.0001", "the held-out documents give 0 tokens, one window needs 9"),
    ("held_out = 0.2", 'separator = ""', "data.separator must hold at least 1 character"),
    ('corpus = "corpus.txt"', 'corpus = "none.txt"', "none.txt: the corpus cannot be read"),
    ("batch = 3", "batch = 900", "shorter than a batch: 900 × 8 tokens and the one after them are 7,201"),
    ("d_ff = 12", "d_ff = 999999999999999", "bytes, "),
    ("[run]", "[run", "not TOML"),
]


@pytest.mark.parametrize(("old", "new", "said"), WRONG, ids=[f"{w[1][:24]!r}" for w in WRONG])
def test_a_configuration_that_is_wrong_is_refused_by_name_and_nothing_is_trained(here, capsys, old, new, said):
    edit(here, old, new)
    assert said in refused(capsys)
    assert not (here / "run" / "checkpoint.npz").exists()


def test_a_file_that_is_not_there_or_not_utf8_is_refused(here, capsys):
    (here / "train.toml").write_bytes(b"\xff\xfe")
    assert "not TOML" in refused(capsys)
    (here / "train.toml").unlink()
    assert "cannot be read" in refused(capsys)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back_from_the_written_configuration(text):
    assert tomllib.loads(f"x = {toml_value(text)}")["x"] == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_number_comes_back_from_the_written_configuration(number):
    assert tomllib.loads(f"x = {toml_value(number)}")["x"] == number


def test_without_held_out_documents_nothing_is_judged(here):
    edit(here, "held_out = 0.2", "held_out = 0.0")
    assert run_training() == 0
    assert all(s.held_out_loss is None for s in read_curve(here / "run" / "loss.csv"))


def test_another_seed_draws_other_batches(here):
    use_toy(train, initial=lambda: toy(259, 6, 0))
    losses = []
    for seed in (5, 6):
        (here / "train.toml").write_text(CONFIG.format(out=f"run{seed}", steps=1, every=1).replace("seed = 5", f"seed = {seed}"))
        edit(here, "warmup = 3", "warmup = 0")
        assert run_training() == 0
        losses.append(read_curve(here / f"run{seed}" / "loss.csv")[0].loss)
    assert losses[0] != losses[1]


def test_a_tokenizer_of_another_size_is_refused(here, capsys, tiny_path):
    edit(here, 'corpus = "corpus.txt"', f'corpus = "corpus.txt"\ntokenizer = "{tiny_path.as_posix()}"')
    said = refused(capsys)
    assert "model.vocab_size says 259" in said
    assert issubclass(minillm.errors.TrainingError, MiniLLMError)
