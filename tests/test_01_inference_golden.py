"""minillm says what transformers says: recorded logits and greedy tokens, of tiny models for every switch and of SmolLM2.

The recordings and the scripts that made them lie in tests/golden. Where a tolerance is needed its size is next to its reason.
"""

import json
import pathlib
import warnings

import numpy as np
import pytest
from golden import tiny_models

from minillm.model.load import load_model
from minillm.model.transformer import Segment

GOLDEN = pathlib.Path(__file__).with_name("golden")
TINY = json.loads((GOLDEN / "tiny.json").read_text())["models"]
SMOLLM2 = json.loads((GOLDEN / "smollm2.json").read_text(encoding="utf-8"))

TINY_TOLERANCE = 1e-4  # of the largest logit: two float32 implementations of a few layers part by some 1e-6 of it
LOGPROB_TOLERANCE = 5e-4  # nats: 30 layers of float32 part by 6e-5; llama.cpp, whose activations are int8, by up to 0.9
NEAR_TIE = 1e-3  # where the two best logits are closer than this, a greedy token may differ


def logits_of(transformer, ids):  # -> (len(ids), vocab)
    return transformer.forward([Segment(np.array(ids), 0, transformer.new_cache(), logits="all")])[0]


def greedy(transformer, ids, count, stop=()):
    """Prefill, then one token at a time through the cache."""
    cache, tokens, out = transformer.new_cache(), ids, []
    while len(out) < count and not set(out[-1:]) & set(stop):
        logits = transformer.forward([Segment(np.array(tokens), cache.length, cache)])[0]
        tokens = [int(logits[-1].argmax())]
        out += tokens
    return out


@pytest.fixture(scope="module", params=tiny_models.SPECS)
def tiny(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("golden") / f"{request.param}.gguf"
    tiny_models.write_tiny(request.param, path)
    return load_model(path, backend="numpy")[0], TINY[request.param]


def test_there_is_a_recording_for_every_tiny_model():
    assert list(TINY) == list(tiny_models.SPECS)


def test_logits_of_every_architecture_switch_equal_transformers(tiny):
    transformer, recorded = tiny
    for sequence in recorded:
        expected = np.array(sequence["logits"])
        error = np.abs(logits_of(transformer, sequence["ids"])[sequence["positions"]] - expected).max(axis=1)
        where = dict(zip(sequence["positions"], (error / np.abs(expected).max()).tolist(), strict=True))
        assert max(where.values()) < TINY_TOLERANCE, f"relative error by position of {len(sequence['ids'])}: {where}"


def test_greedy_tokens_of_every_architecture_switch_equal_transformers(tiny):
    transformer, recorded = tiny
    for sequence in recorded:
        assert greedy(transformer, sequence["ids"], len(sequence["greedy"])) == sequence["greedy"]


@pytest.fixture(scope="module")
def real(smollm2_path):
    return load_model(smollm2_path, backend="numpy")


@pytest.fixture(scope="module")
def prefilled(real):
    """name of a prompt -> its logits (len(ids), vocab) and its cache, computed once for both tests that look at them."""
    kept = {}

    def prefill(prompt):
        if prompt["name"] not in kept:
            cache = real[0].new_cache()
            logits = real[0].forward([Segment(np.array(prompt["ids"]), 0, cache, logits="all")])[0]
            kept[prompt["name"]] = logits, cache
        return kept[prompt["name"]]

    return prefill


def go_on_together(transformer, starts, count, stop=()):
    """Greedy tokens of many sequences, a token of all that go on in each step. starts: [(first token, cache)]"""
    out, caches = [[first] for first, _ in starts], [cache for _, cache in starts]
    while going := [i for i, tokens in enumerate(out) if len(tokens) < count and tokens[-1] not in stop]:
        step = [Segment(np.array(out[i][-1:]), caches[i].length, caches[i]) for i in going]
        for i, logits in zip(going, transformer.forward(step), strict=True):
            out[i].append(int(logits[-1].argmax()))
    return out


@pytest.fixture(scope="module")
def answers(real, prefilled):
    """prompt -> 48 greedy tokens. Prompts that are asked for soon are one batch, all others one: alone each is as dear as ten."""
    found = {}

    def answer(prompt):
        if prompt["name"] not in found:
            batch = [other for other in SMOLLM2["prompts"] if (other["name"] in SOON) == (prompt["name"] in SOON)]
            starts = [(int(logits[-1].argmax()), cache.fork()) for logits, cache in map(prefilled, batch)]
            tokens = go_on_together(real[0], starts, 48, SMOLLM2["stop"])
            found.update(zip((other["name"] for other in batch), tokens, strict=True))
        return found[prompt["name"]]

    return answer


def as_recorded(got, prompt):
    """Assert that greedy tokens are those of transformers, but for a near tie."""
    expected = prompt["greedy"]
    if got != expected:
        pairs = zip(got, expected, strict=False)
        step = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(got), len(expected)))
        margin = prompt["margins"][step]
        said = f"{prompt['name']}: parts from transformers at greedy token {step}, where the best logits differ by {margin}"
        assert margin < NEAR_TIE, said
        warnings.warn(said, stacklevel=1)  # counted and listed in pytest's summary


# a chat that goes on, one that ends, a token alone, blanks, other scripts: the rest is slow, NumPy takes a second for 100 tokens
SOON = {"chat_fox", "chat_arithmetic", "plain_one_token", "plain_whitespace", "plain_unicode", "plain_repetition"}
PROMPTS = [pytest.param(p, id=p["name"], marks=[pytest.mark.slow] * (p["name"] not in SOON)) for p in SMOLLM2["prompts"]]


@pytest.mark.model
@pytest.mark.parametrize("name", ["chat_fox", pytest.param("plain_python", marks=pytest.mark.slow)])
def test_48_greedy_tokens_of_a_prompt_alone(real, name):
    prompt = next(p for p in SMOLLM2["prompts"] if p["name"] == name)
    as_recorded(greedy(real[0], prompt["ids"], 48, SMOLLM2["stop"]), prompt)


@pytest.mark.model
@pytest.mark.parametrize("prompt", SMOLLM2["prompts"], ids=lambda p: p["name"])
def test_prompt_becomes_the_same_tokens(real, prompt):
    if "messages" in prompt:
        assert list(real[1].apply_chat_template(prompt["messages"])) == prompt["ids"]
    else:
        assert list(real[1].encode(prompt["text"])) == prompt["ids"]


@pytest.mark.model
@pytest.mark.parametrize("prompt", PROMPTS)
class TestSmolLM2:
    def test_five_likeliest_tokens_at_every_prompt_position(self, prefilled, prompt):
        logits = prefilled(prompt)[0].astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        ids, expected = np.array(prompt["top_ids"]), np.array(prompt["top_logprobs"])
        assert np.abs(np.take_along_axis(logprobs, ids, axis=1) - expected).max() < LOGPROB_TOLERANCE
        fifth = np.sort(logprobs, axis=1)[:, -5]  # and no other token belongs among them
        assert np.abs(fifth - expected[:, -1]).max() < LOGPROB_TOLERANCE

    def test_48_greedy_tokens(self, answers, prompt):
        as_recorded(answers(prompt), prompt)
