"""`minillm train` with a [base]: all its weights, an adapter, an adapter over four bits; what is refused."""

import math

import numpy as np
import pytest
from training_help import write_corpus

import minillm.cli
from minillm import LLM
from minillm.model.adapter_files import load_adapter
from minillm.model.config import ModelConfig
from minillm.model.load import load_parameters
from minillm.model.random_model import byte_metadata
from minillm.model.write import write_model
from minillm.training import lora, model
from minillm.training.curve import read_curve

SHAPE = ModelConfig(
    n_layers=2, d_model=32, n_heads=2, n_kv_heads=1, d_head=16, d_ff=48, vocab_size=260, context_length=32, tied=True, name="base"
)  # fmt: skip
CONFIG = """
[run]
out = "{out}"
steps = {steps}
batch = 4
length = 16
checkpoint_every = 5
evaluate_every = 5
evaluate_batches = 2

[data]
corpus = "corpus.txt"
held_out = 0.2

[base]
model = "base.gguf"
method = "{method}"
rank = 4
alpha = 8
matrices = "attn_q, ffn_down"

[optimizer]
learning_rate = 0.02
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a corpus and a base that is written but not trained."""
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path)
    write_model(tmp_path / "base.gguf", SHAPE, model.parameters(SHAPE, 7), byte_metadata(260))
    return tmp_path


def train(folder, *more, out="run", method="lora", steps=30, edit=("", "")):
    text = CONFIG.format(out=out, method=method, steps=steps)
    assert edit[0] in text
    (folder / f"{out}.toml").write_text(text.replace(edit[0], edit[1], 1) if edit[0] else text)
    return minillm.cli.main(["train", "--config", f"{out}.toml", *more])


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_an_adapter_learns_beside_a_base_that_stays_as_it_is(here, method):
    before = (here / "base.gguf").read_bytes()
    assert train(here, method=method) == 0
    assert (here / "base.gguf").read_bytes() == before
    steps = read_curve(here / "run" / "loss.csv")
    assert steps[-1].held_out_loss < steps[4].held_out_loss < math.log(260)
    config, _ = load_parameters(here / "base.gguf")
    adapter, same = load_adapter(here / "run" / "adapter.gguf", config), load_adapter(here / "run" / "adapter", config)
    assert {n: a.shape for n, a in adapter.weights.items()} == {n: a.shape for n, a in same.weights.items()}
    assert all(np.array_equal(adapter.weights[n], same.weights[n]) for n in adapter.weights) and adapter.alpha == same.alpha == 8
    assert {n.split(".")[2] for n in adapter.weights} == {"attn_q", "ffn_down"}
    assert not (here / "run" / "model.gguf").exists()


def test_the_adapter_on_disk_is_the_one_that_was_judged(here):
    assert train(here, edit=("evaluate_batches = 2", "evaluate_batches = 99")) == 0
    config, base = load_parameters(here / "base.gguf")
    adapter = load_adapter(here / "run" / "adapter.gguf", config)
    from minillm.training.data import held_out_batches, open_tokens

    windows = held_out_batches(open_tokens(here / "run" / "held_out.tokens").ids, 4, 16, 99)
    merged = lora.merge(base, adapter)
    losses = [(len(t), model.loss(config, merged, t, y)) for t, y in windows]
    told = read_curve(here / "run" / "loss.csv")[-1].held_out_loss
    assert sum(n * x for n, x in losses) / sum(n for n, _ in losses) == pytest.approx(told, rel=1e-5)


def test_all_weights_go_on_from_where_the_base_stands(here):
    assert train(here, method="full", out="first", steps=40) == 0
    (here / "first" / "model.gguf").rename(here / "base.gguf")
    assert train(here, method="full", out="second", steps=1) == 0
    losses = [read_curve(here / out / "loss.csv") for out in ("first", "second")]
    assert losses[1][0].loss < losses[0][0].loss - 0.5, "a run from random weights would start at log(260)"
    assert LLM(here / "second" / "model.gguf").config.d_model == 32


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_an_adapters_run_goes_on_bit_for_bit(here, method):
    assert train(here, method=method, out="whole", steps=10) == 0
    from minillm.training import loop

    class Stop(Exception):
        pass

    def stop(*args, **settings):
        if args[4] == 8:
            raise Stop
        return step(*args, **settings)

    step, loop.adamw = loop.adamw, stop
    try:
        with pytest.raises(Stop):
            train(here, method=method, out="cut", steps=10)
    finally:
        loop.adamw = step
    assert train(here, "--resume", method=method, out="cut", steps=10) == 0
    assert (here / "cut" / "adapter.gguf").read_bytes() == (here / "whole" / "adapter.gguf").read_bytes()


def test_another_base_under_the_same_name_is_noticed(here, capsys):
    assert train(here, steps=5) == 0
    write_model(here / "base.gguf", SHAPE, model.parameters(SHAPE, 8), byte_metadata(260))
    assert train(here, "--resume", steps=5) == 2
    assert "base.sha256 is" in capsys.readouterr().err


WRONG = [
    (("rank = 4", "rank = 33"), "lora", "the rank must be 1 to 32"),
    (("attn_q, ffn_down", "attn_q, attn_z"), "lora", "adapters go on attn_q"),
    (('model = "base.gguf"', 'model = "none.gguf"'), "lora", "no such file or folder: 'none.gguf'"),
    (('model = "base.gguf"', 'model = "corpus.txt"'), "lora", "corpus.txt"),
    (('model = "base.gguf"\n', ""), "lora", "base.method must be full, lora, qlora, the latter two with a base.model"),
    (("rank = 4", "rank = 4"), "dora", "found 'dora'"),
    (("[optimizer]", "[model]\nd_model = 64\n[optimizer]"), "lora", "model.d_model is 64, that of base.model 32"),
    (
        ("held_out = 0.2", 'held_out = 0.2\ntokenizer = "bpe"'),
        "lora",
        "data.tokenizer is that of base.model, 'base.gguf'; found 'bpe'",
    ),
    (("alpha = 8", "alpha = 0"), "lora", "base.alpha must be from 1e-06"),
    (("length = 16", "length = 33"), "lora", "run.length is 33, model.context_length holds 32"),
]


@pytest.mark.parametrize(("edit", "method", "says"), WRONG, ids=[w[0][1][:20] + w[1] for w in WRONG])
def test_a_base_that_does_not_fit_is_refused_in_one_line(here, capsys, edit, method, says):
    assert train(here, method=method, edit=edit) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1
    assert not (here / "run" / "checkpoint.npz").exists()
