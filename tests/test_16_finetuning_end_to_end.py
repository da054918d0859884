"""`minillm train` as it is: a text becomes a tokenizer, a model and a story; and what a corpus can do wrong, in one line."""

import json
import lzma
import mmap

import numpy as np
import pytest
from training_help import edit, refused, run_training

import minillm.cli
import minillm.cli.train
from minillm import LLM, SamplingParams, memory
from minillm.formats.gguf import open_gguf
from minillm.formats.gguf_write import write_gguf
from minillm.model.tokenizer import Tokenizer
from minillm.model.weights import config_from_gguf
from minillm.training import loop
from minillm.training.bpe_train import train_bpe
from minillm.training.config import read
from minillm.training.data import open_tokens, read_corpus, split

CONFIG = """
[run]
out = "run"
steps = 80
batch = 4
length = 32
seed = 3
checkpoint_every = 10
evaluate_every = 15

[data]
corpus = "corpus.txt.xz"
tokenizer = "bpe"
held_out = 0.1

[model]
name = "two animals"
n_layers = 1
d_model = 32
n_heads = 2
n_kv_heads = 1
d_head = 16
d_ff = 64
vocab_size = 320
context_length = 96
tied = true

[optimizer]
learning_rate = 0.02
warmup = 3

[about]
license = "apache-2.0"
"""
END = "<|endoftext|>"


def stories():
    for i in range(400):
        a, b = ("fox", "bear", "owl", "frog", "mouse")[i % 5], ("hill", "river", "garden", "park")[i * 7 % 4]
        yield f"Once upon a time a little {a} lived near the {b}. It found {i} cakes. They were friends for ever."


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(minillm.cli.train, "peak_flops", lambda: 1e11)
    (tmp_path / "train.toml").write_text(CONFIG)
    (tmp_path / "corpus.txt.xz").write_bytes(lzma.compress(f"{END}\n".join(stories()).encode()))
    return tmp_path


def metadata_of(path):
    with open_gguf(path) as file:
        return file.metadata


def test_a_packed_text_becomes_a_tokenizer_a_model_and_a_story(here, capsys):
    assert run_training("--json") == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["loss"] < 2.0 < 5.7 < np.log(320), "it has not learnt"
    with open_gguf("run/model.gguf") as file:
        assert config_from_gguf(file).vocab_size == 320 and file.metadata["general.license"] == "apache-2.0"
    llm = LLM("run/model.gguf")
    output = llm.generate(["Once upon a"], SamplingParams(max_tokens=8, temperature=0))[0]
    assert output.text.startswith(" time a little ")
    assert (
        minillm.cli.main(["generate", "Once upon a", "--model", "run/model.gguf", "--max-tokens", "8", "--temperature", "0"]) == 0
    )
    assert " time a little " in capsys.readouterr().out


def test_the_tokenizer_is_learnt_from_one_side_alone_and_ends_each_document(here):
    assert run_training() == 0
    assert {k: str(v) for k, v in metadata_of("run/tokenizer.gguf").items() if k.startswith("tokenizer.")} == {
        k: str(v) for k, v in metadata_of("run/model.gguf").items() if k.startswith("tokenizer.")
    }
    tokenizer = Tokenizer.from_gguf(metadata_of("run/tokenizer.gguf"))
    assert tokenizer.special_tokens == {END: 319} and tokenizer.eos_id == 319 and tokenizer.vocab_size == 320
    sides = split(read_corpus("corpus.txt.xz"), END, 0.1)
    for name, documents in zip(("train", "held_out"), sides, strict=True):
        ids = open_tokens(f"run/{name}.tokens").ids
        assert tokenizer.decode(ids) == "".join(f"{d}{END}" for d in documents)
        assert int((ids == 319).sum()) == len(documents) > 0
    assert train_bpe(sides[0], 320)["tokenizer.ggml.merges"] == metadata_of("run/tokenizer.gguf")["tokenizer.ggml.merges"]
    assert train_bpe(sum(sides, []), 320)["tokenizer.ggml.merges"] != train_bpe(sides[0], 320)["tokenizer.ggml.merges"]


def test_a_run_goes_on_with_its_tokenizer_and_needs_no_corpus_for_it(here, capsys, monkeypatch):
    edit(here, "steps = 80", "steps = 20")
    whole, calls = loop.adamw, []

    def stopped(*args, **settings):
        calls.append(1)
        if len(calls) == 13:
            raise KeyboardInterrupt
        whole(*args, **settings)

    monkeypatch.setattr(loop, "adamw", stopped)
    assert run_training() == 130
    (here / "corpus.txt.xz").rename(here / "elsewhere.xz")
    assert run_training("--resume") == 0
    broken = (here / "run/model.gguf").read_bytes()
    (here / "elsewhere.xz").rename(here / "corpus.txt.xz")
    edit(here, 'out = "run"', 'out = "again"')
    assert run_training() == 0
    assert (here / "again/model.gguf").read_bytes() == broken, "stopped and resumed is another model"


def test_paged_moments_lie_in_a_file_of_the_run_and_change_no_bit_fresh_or_resumed(here, monkeypatch):
    edit(here, "steps = 80", "steps = 12")
    assert run_training() == 0
    right, whole, seen = (here / "run/model.gguf").read_bytes(), loop.adamw, []

    def watched(parameters, gradients, first, second, step, rate, **settings):
        seen.append({type(origin(a)) for moments in (first, second) for a in moments.values()})
        if len(seen) == 11:  # the checkpoint of step 10 is there
            raise KeyboardInterrupt
        whole(parameters, gradients, first, second, step, rate, **settings)

    def origin(array):  # what an array is a view of, in the end
        while isinstance(array, np.ndarray) and array.base is not None:
            array = array.base
        return array.obj if isinstance(array, memoryview) else array

    monkeypatch.setattr(loop, "adamw", watched)
    edit(here, 'out = "run"', 'out = "paged"\npaged = true')
    assert run_training() == 130 and run_training("--resume") == 0
    assert len(seen) == 13 and all(kinds == {mmap.mmap} for kinds in seen)
    assert (here / "paged/model.gguf").read_bytes() == right
    assert not [path for path in (here / "paged").iterdir() if path.name.startswith("tmp")], "the file has no name"


def test_a_model_beyond_memory_is_refused_before_anything_is_read_and_paged_it_needs_half(here, capsys, monkeypatch):
    bytes_a_weight = {"": 16, "paged = true": 8}
    monkeypatch.setattr(memory, "ALWAYS_FITS", 0)
    for how, nbytes in bytes_a_weight.items():
        edit(here, 'out = "run"', f'out = "run"\n{how}')
        need = nbytes * read("train.toml").model.parameters()
        monkeypatch.setattr(memory, "available_bytes", lambda need=need: need - 1)
        assert f"would take {need:,} bytes, {need - 1:,} are available" in refused(capsys) and not (here / "run").exists()


def test_a_run_that_starts_afresh_takes_nothing_of_one_that_was_there(here):
    edit(here, "steps = 80", "steps = 3")
    assert run_training() == 0
    right = {name: (here / "run" / name).read_bytes() for name in ("tokenizer.gguf", "train.tokens", "held_out.tokens")}
    packed = (here / "corpus.txt.xz").read_bytes()
    corpus(END.join(f"{i} boats sail the sea, and {i} gulls follow them to the land of ice." for i in range(400)))(here)
    (here / "run/checkpoint.npz").unlink()
    assert run_training() == 0
    for name, before in right.items():
        assert (here / "run" / name).read_bytes() != before, name
    (here / "corpus.txt.xz").write_bytes(packed)
    (here / "run/checkpoint.npz").unlink()
    assert run_training() == 0
    assert {name: (here / "run" / name).read_bytes() for name in right} == right


def test_another_tokenizer_under_the_same_ids_is_noticed(here, capsys):
    assert run_training() == 0
    capsys.readouterr()
    kept = metadata_of("run/tokenizer.gguf")
    kept["tokenizer.ggml.tokens"][0], kept["tokenizer.ggml.tokens"][1] = kept["tokenizer.ggml.tokens"][1::-1]
    write_gguf("run/tokenizer.gguf", kept, {})
    said = refused(capsys, "--resume")
    assert "tokenizer.sha256 is" in said and said.count(" now") == 1
    (here / "run/tokenizer.gguf").unlink()
    assert run_training("--resume") == 0, "a tokenizer that is lost is learnt again, and is the same"


def test_the_tokenizer_of_one_run_serves_another(here, capsys):
    assert run_training() == 0
    edit(here, 'out = "run"', 'out = "draft"')
    edit(here, 'tokenizer = "bpe"', 'tokenizer = "run/model.gguf"')
    edit(here, "steps = 80", "steps = 3")
    assert run_training() == 0
    ids = [(here / f"{run}/train.tokens").read_bytes() for run in ("run", "draft")]
    assert ids[0] == ids[1] and not (here / "draft/tokenizer.gguf").exists()
    edit(here, 'tokenizer = "run/model.gguf"', 'tokenizer = "bpe"')
    capsys.readouterr()
    assert "data.tokenizer is" in refused(capsys, "--resume")


def corpus(text):
    return lambda here: (here / "corpus.txt.xz").write_bytes(lzma.compress(text if isinstance(text, bytes) else text.encode()))


def changes(old, new):
    return lambda here: edit(here, old, new)


WRONG = {
    "empty": (corpus(""), "must hold at least 1 character of text, found 0 in 0 bytes"),
    "white space": (corpus(" \n" * 9), "must hold at least 1 character of text, found 0 in 18 bytes"),
    "separators alone": (corpus(END * 9), "the corpus is empty: expected text, found none in 0 documents"),
    "not UTF-8": (corpus(b"Once upon a time\xff"), "must be UTF-8, but byte 16 of 17 is 0xff"),
    "cut off": (
        lambda here: (here / "corpus.txt.xz").write_bytes((here / "corpus.txt.xz").read_bytes()[:-20]), "cannot be read"
    ),
    "not packed": (lambda here: (here / "corpus.txt.xz").write_text("plain"), "cannot be read"),
    "too small for the vocabulary": (corpus("Once upon a time"), "the corpus is too small for a vocabulary of 320 tokens"),
    "shorter than a batch": (changes("batch = 4", "batch = 999"), "shorter than a batch: 999 × 32 tokens and the one after them"),
    "vocabulary without room": (changes("vocab_size = 320", "vocab_size = 256"), "at least 257 (256 bytes and 1 special)"),
    "no such architecture": (changes("tied = true", "qk_norm = true"), "no architecture of a GGUF file has rope_interleaved"),
    "a number beyond float32": (changes("tied = true", "rope_base = 1e39"), "'llama.rope.freq_base': expected at most 3.403e+38"),
    "an odd head": (changes("d_head = 16", "d_head = 15"), "d_head 15 is odd"),
    "a key of [about]": (changes("license =", "licence ="), "'licence' is no key in [about]; did you mean 'license'?"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "said"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_trained_is_one_line_and_no_model(here, capsys, spoil, said):
    spoil(here)
    assert said in refused(capsys)
    assert not (here / "run/checkpoint.npz").exists() and not (here / "run/model.gguf").exists()


def test_a_checkpoint_from_another_configuration_is_refused(here, capsys):
    assert run_training() == 0
    capsys.readouterr()
    edit(here, "tied = true", "tied = true\nrope_base = 500.0")
    assert "model.rope_base is 10000.0 in the checkpoint, 500.0 now" in refused(capsys, "--resume")
    edit(here, "rope_base = 500.0", "")
    edit(here, "apache-2.0", "MIT")
    assert run_training("--resume") == 0, "what a model says of itself changes no number"
    assert metadata_of("run/model.gguf")["general.license"] == "MIT" == read("run/config.toml").about.license


def test_weights_that_become_no_numbers_stop_the_run_and_its_last_checkpoint_stays(here, capsys, monkeypatch):
    whole = loop.adamw

    def spoiled(parameters, gradients, first, second, step, rate, **settings):
        whole(parameters, gradients, first, second, step, rate, **settings)
        if step == 14:
            parameters["blk.0.ffn_up.weight"][2, 3] = np.nan

    monkeypatch.setattr(loop, "adamw", spoiled)
    said = refused(capsys)
    assert "step 15: the loss is nan" in said and "the checkpoint of step 10 is kept" in said
    assert not (here / "run/model.gguf").exists()
    monkeypatch.setattr(loop, "adamw", whole)
    assert run_training("--resume") == 0
