"""Perplexity and KL divergence: windows by counting, losses against one token at a time and against llama.cpp's, the command."""

import json
import math
import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minillm import LLM
from minillm.bench.quality import score, text_ids
from minillm.calibration.texts import story_texts
from minillm.cli import main
from minillm.errors import MiniLLMError
from minillm.metrics.perplexity import Scores, mean, perplexity, perplexity_ratio, windows
from minillm.model.random_model import TINY, random_model
from minillm.model.transformer import Segment

GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden" / "perplexity.json").read_text())


@given(context=st.integers(2, 12), stride=st.integers(1, 12), more=st.integers(0, 40))
def test_every_token_is_scored_once_with_its_context_before_it(context, stride, more):
    stride, count = min(stride, context), context + more
    scored = {}
    for start, stop, first in windows(count, context, stride):
        assert start % stride == 0 and stop - start <= context and start < first < stop <= count
        for token in range(first, stop):
            assert token not in scored, "a token is scored twice"
            scored[token] = token - start
    never = {0} if stride < context else set(range(0, count, context))  # the first of each, where windows do not overlap
    assert set(scored) == set(range(count)) - never
    assert all(before >= min(token, context - stride) for token, before in scored.items())


def slowly(llm, ids, context, stride):
    """-log p of each scored token, each from a forward pass of its own over what its window has before it."""
    start, stop, found = 0, 0, []
    while stop < len(ids):
        begin, stop = stop, min(start + context, len(ids))
        for token in range(max(begin, start + 1), stop):
            read = [int(i) for i in ids[start:token]]
            if llm.tokenizer.add_bos:
                read[0] = llm.tokenizer.bos_id
            row = llm.transformer.forward([Segment(read, 0, llm.transformer.new_cache())])[0][0].astype(float).tolist()
            top = max(row)
            found.append(math.log(sum(math.exp(x - top) for x in row)) + top - row[ids[token]])
        start += stride
    return found


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize(("context", "stride"), [(9, 3), (8, 8), (30, 15)])
def test_losses_are_those_of_one_token_at_a_time(tiny_path, backend, context, stride):
    llm = LLM(tiny_path, backend)
    ids = np.random.default_rng(5).integers(0, llm.config.vocab_size, 30)
    (found,) = score([llm], ids, context, stride)
    assert found.losses.tolist() == pytest.approx(slowly(llm, ids, context, stride), abs=2e-4)
    assert perplexity(found.losses).value == pytest.approx(math.exp(found.losses.mean()))


def test_a_model_differs_from_another_as_plain_sums_say_and_not_from_itself(monkeypatch):
    from minillm.bench import quality

    monkeypatch.setattr(quality, "ROWS", 7)  # so that a window is several pieces, the last one shorter
    small = TINY.__class__(**{f: getattr(TINY, f) for f in TINY.__slots__} | {"n_layers": 1, "d_model": 32, "d_ff": 64})
    one, other = (LLM(random_model(small, seed, "numpy"), "numpy") for seed in (0, 1))
    ids = np.random.default_rng(7).integers(0, 256, 40)
    same, found = score([one, other], ids, 20, 10, one)
    assert (same.kl == 0).all() and same.agreed.all() and perplexity_ratio(same.losses, same.original_losses) == (1, 0)
    at = 0
    for start, stop, first in windows(40, 20, 10):
        p, q = (probabilities(llm, ids[start : stop - 1]) for llm in (one, other))
        for token in range(first, stop):
            a, b = p[token - 1 - start], q[token - 1 - start]
            assert found.kl[at] == pytest.approx(sum(x * math.log(x / y) for x, y in zip(a, b, strict=True)), rel=1e-4)
            assert found.agreed[at] == (np.argmax(a) == np.argmax(b))
            assert found.original_losses[at] == pytest.approx(-math.log(a[ids[token]]), rel=1e-5)
            at += 1
    q = found.quality
    assert (at, q.tokens) == (39, 39) and 0 < q.agreement < 0.5 and q.kl_99 == pytest.approx(np.percentile(found.kl, 99))
    assert q.kl == pytest.approx(sum(found.kl) / 39) and q.kl_error == pytest.approx(np.std(found.kl, ddof=1) / math.sqrt(39))
    assert q.agreement_error == pytest.approx(math.sqrt(q.agreement * (1 - q.agreement) / 38))  # llama.cpp's, of a share


def probabilities(llm, ids):
    logits = llm.transformer.forward([Segment(ids, 0, llm.transformer.new_cache(), "all")])[0].astype(np.float64)
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def test_the_error_of_a_mean_shrinks_with_the_root_of_the_count_and_is_unknown_of_one():
    values = np.random.default_rng(0).standard_normal(400)
    assert mean(values).error == pytest.approx(math.sqrt(sum((v - values.mean()) ** 2 for v in values) / 399 / 400))
    assert math.isnan(mean(values[:1]).error)
    assert perplexity(np.array([800.0, 900.0])).value == math.inf


def test_losses_and_perplexity_are_llama_cpps():
    """The recorded figures have its tokenizer and its arithmetic: the text, its tokens, each loss, and its own definition."""
    context, stride, expected = GOLDEN["context"], GOLDEN["stride"], np.array(GOLDEN["losses"])
    llm = LLM("tiny", "numpy")
    ids = text_ids(llm.tokenizer, story_texts(measured=3).held_out)[: len(GOLDEN["ids"])]
    assert ids.tolist() == GOLDEN["ids"]
    (found,) = score([llm], ids, context, stride)
    assert np.abs(found.losses - expected).max() < 0.03 and abs(found.losses.mean() - expected.mean()) < 5e-4
    apart = [stop for start, stop, _ in windows(len(ids), context, stride) if start % context == 0]
    own = found.losses[np.concatenate([np.arange(stop - context // 2 + 1, stop) for stop in apart]) - 1]
    value, error = perplexity(own)
    assert len(own) == GOLDEN["llama_cpp"]["scored"]
    assert value == pytest.approx(GOLDEN["llama_cpp"]["perplexity"], rel=1e-3)
    assert error == pytest.approx(GOLDEN["llama_cpp"]["error"], rel=5e-3)


def test_calibration_and_held_out_text_share_no_document_and_are_as_long_as_they_must_be():
    texts = story_texts(calibration=None)
    learned, held_out = set(texts.calibration_documents), set(texts.held_out_documents)
    assert not learned & held_out and len(held_out) == len(texts.held_out_documents) == 200
    assert len(learned) > 30_000 and all("<|endoftext|>" not in document for document in held_out)
    assert texts.held_out.split("<|endoftext|>") == texts.held_out_documents
    ids = text_ids(LLM("tiny", "numpy").tokenizer, texts.held_out)
    assert len(ids) > 50_000, "a table of methods is measured on at least so many tokens"


@pytest.mark.parametrize("more", [[], ["--against", "{tiny}"]])
def test_the_command_says_what_it_did(tiny_path, tmp_path, capsys, more):
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a fox. " * 9)
    words = ["--text", str(text), "--context", "16", "--backend", "numpy", *(word.format(tiny=tiny_path) for word in more)]
    assert main(["perplexity", "--model", str(tiny_path), *words, "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["context"], found["stride"], found["scored_tokens"]) == (16, 8, found["tokens"] - 1)
    llm = LLM(tiny_path, "numpy")
    (expected,) = score([llm], text_ids(llm.tokenizer, text.read_text()), 16, 8)
    assert found["perplexity"] == pytest.approx(perplexity(expected.losses).value)
    assert f"perplexity         {found['perplexity']:.4f} ± {found['perplexity_error']:.4f}" in err
    assert ("kl" in found) == bool(more)
    if more:
        assert (found["kl"], found["kl_error"], found["agreement"], found["ratio"]) == (0, 0, 1, 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--context", "96"], "a window takes 96 tokens, the text has"),
        (["--context", "4", "--stride", "5"], "a stride is 1 to the context, 4 tokens, found 5"),
        (["--context", "4", "--stride", "0"], "found 0"),
        (["--context", "1"], "a window takes 2 tokens or more"),
        (["--context", "0"], "found a context of 0"),
        (["--context", "100000"], "--context must be at most"),
        (["--against", "tiny"], "expected 2,048 tokens, the original's, found"),
        (["--text", "nowhere.txt"], "nowhere.txt: the corpus cannot be read"),
    ],
)
def test_what_cannot_be_measured_is_one_line(tiny_path, tmp_path, capsys, words, said):
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time.")
    status = main(["perplexity", "--model", str(tiny_path), "--text", str(text), "--backend", "numpy", *words])
    out, err = capsys.readouterr()
    assert status == 2 and out == "" and err.count("\n") == 1 and said in err


def test_models_with_other_tokens_are_refused():
    from minillm.bench.quality import check_vocabularies

    one, other = LLM(random_model(backend="numpy"), "numpy"), LLM(random_model(backend="numpy"), "numpy")
    check_vocabularies(one, other, "a fox")
    other.tokenizer.encode = lambda text: [1]
    with pytest.raises(MiniLLMError, match="different tokens"):
        check_vocabularies(one, other, "a fox")


def test_scores_without_an_original_have_no_kl():
    scores = Scores()
    scores.add(np.log(np.full((2, 4), 0.25)), np.array([0, 3]))
    assert perplexity(scores.losses) == (pytest.approx(4), 0)
    with pytest.raises(IndexError):
        scores.kl  # noqa: B018
