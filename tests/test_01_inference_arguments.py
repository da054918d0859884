"""Arguments where they come in: numbers of any kind that mean a number, prompts of any kind that mean tokens, else one line."""

import math

import numpy as np
import pytest
from engine_help import SMALL, engine, small

from minillm import LLM, SamplingParams
from minillm.errors import RequestError, TokenizerError
from minillm.model.random_model import byte_tokenizer, random_model
from minillm.model.sampling import distribution, sample

ALONE = SamplingParams(max_tokens=3, ignore_eos=True)


# --- numbers ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("top_k", [5.0, np.int64(5), np.uint8(5), np.float32(5), np.array(5)]),
        ("seed", [5.0, np.int32(5), np.float64(5)]),
        ("logprobs", [5.0, np.int64(5)]),
        ("max_tokens", [5.0, np.int16(5)]),
        ("temperature", [5, np.float32(5), np.int8(5)]),
        ("stop_token_ids", [[5], (5.0,), np.array([5]), {5}]),
        ("stop", [["5"], ("5",), "5", {"5"}, iter(["5"])]),
        ("ignore_eos", [True, np.bool_(True)]),
    ],
)
def test_what_means_the_same_is_the_same(name, values):
    plain = {"stop": ("5",), "stop_token_ids": (5,), "ignore_eos": True}.get(name, 5)
    for value in values:
        found = getattr(SamplingParams(**{name: value}), name)
        assert found == plain and type(found) in (int, float, tuple, bool), (value, found)
    assert SamplingParams(stop=None, stop_token_ids=None) == SamplingParams()


@pytest.mark.parametrize(
    ("name", "value"),
    [("top_k", 5.5), ("seed", "1"), ("logprobs", True), ("max_tokens", np.float64(2.5)), ("max_tokens", np.bool_(True)),
     ("temperature", 1j), ("temperature", 10**400), ("top_p", np.nan), ("stop", 5), ("stop", b"a"), ("stop", [5]),
     ("stop_token_ids", 5), ("stop_token_ids", ["5"]), ("stop_token_ids", "5"), ("stop_token_ids", [-1]),
     ("ignore_eos", 1), ("skip_special_tokens", "no"), ("seed", [1]), ("top_k", np.array([5]))],
)  # fmt: skip
def test_what_is_none_is_refused_by_name(name, value):
    with pytest.raises(RequestError, match=name.replace("stop", "stop", 1)) as found:
        SamplingParams(**{name: value})
    assert "\n" not in str(found.value)


def test_numbers_of_numpy_choose_the_same_tokens():
    llm = small()
    plain = SamplingParams(max_tokens=4, temperature=1.0, top_k=5, seed=1, logprobs=2)
    other = SamplingParams(max_tokens=np.int64(4), temperature=np.float64(1), top_k=5.0, seed=1.0, logprobs=np.int8(2))
    assert plain == other and llm.generate("a", plain).token_ids == llm.generate("a", other).token_ids


# --- prompts ----------------------------------------------------------------------------------------------------------------


def test_token_ids_of_any_kind_are_a_prompt():
    llm, ids = small(), [1, 2, 3]
    expected = llm.generate(ids, ALONE).token_ids
    for prompt in (np.array(ids), np.array(ids, np.uint16), tuple(ids), [1.0, 2.0, 3.0], [np.int32(i) for i in ids], range(1, 4)):
        assert llm.generate(prompt, ALONE).token_ids == expected
        assert engine(llm).generate(prompt, ALONE)[0][0].token_ids == expected
    both = llm.generate(np.array([ids, ids]), ALONE)
    assert [c.token_ids for c in both] == [expected] * 2, "a row is a prompt"
    assert llm.generate((p for p in [ids]), ALONE)[0].token_ids == expected


BAD_PROMPTS = [5, None, [1, "a"], [1, 2.5], [None], [[1], 2], [True], [[b"a"]], object()]


@pytest.mark.parametrize("prompt", BAD_PROMPTS, ids=lambda prompt: repr(prompt).split(" at ")[0])
def test_what_is_no_prompt_is_refused_by_what_it_is(prompt):
    for call in (small().generate, engine().generate):
        with pytest.raises(RequestError) as found:
            call(prompt, ALONE)
        assert "token ids" in str(found.value) and "\n" not in str(found.value)


def test_an_empty_text_begins_at_bos_and_is_refused_where_there_is_none():
    bare = byte_tokenizer(512)
    bare.bos_id = None
    llm = LLM((random_model(SMALL)[0], bare))
    for call in (llm.generate, engine(llm).generate):
        with pytest.raises(RequestError, match="empty.*no begin-of-text token"):
            call("", ALONE)
        with pytest.raises(RequestError, match="empty"):
            call([[]], ALONE)
    bare.bos_id = 7
    assert llm.generate("", ALONE).prompt_token_ids == [7] == engine(llm).generate("", ALONE)[0][0].prompt_token_ids


# --- logits -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, None], ids=str)
@pytest.mark.parametrize(
    "params", [{}, {"temperature": 1.0}, {"temperature": 1.0, "top_k": 2, "min_p": 0.1}, {"top_p": 0.5}], ids=str
)
def test_logits_without_a_largest_number_are_an_error_and_no_token(bad, params):
    logits = np.array([0.0, -math.inf, 3.0, 1.0], np.float32)
    logits[:] = -math.inf if bad is None else logits
    logits[2] = logits[2] if bad is None else bad
    for penalty in (1.0, 1.3):
        given = SamplingParams(repetition_penalty=penalty, **params)
        with pytest.raises(RequestError, match="NaN or infinity"):
            sample(logits, given, np.random.default_rng(0), [0])
        with pytest.raises(RequestError, match="NaN or infinity"):
            distribution(logits, given, [0])


def test_a_penalty_beyond_all_numbers_is_an_error_too():
    given = SamplingParams(temperature=1.0, repetition_penalty=1e-308)
    with pytest.raises(RequestError, match="NaN or infinity"), np.errstate(over="ignore"):
        sample(np.array([1.0, 50.0], np.float32), given, np.random.default_rng(0), [1])


# --- tokens without text ----------------------------------------------------------------------------------------------------


def test_rows_of_the_model_without_a_token_make_no_text():
    """Qwen2's embedding has 271 rows more than its tokenizer has tokens; to draw one is unlikely, and no error."""
    llm = LLM((random_model(SMALL)[0], byte_tokenizer(300)))
    found = llm.generate("hello", SamplingParams(max_tokens=60, temperature=1.0, seed=0, logprobs=5))
    assert any(i >= 300 for i in found.token_ids), "some were drawn"
    assert found.text == llm.tokenizer.decode([i for i in found.token_ids if i < 300], skip_special=True)
    assert llm.tokenizer.token_bytes(511) == b""
    for outside in (-1, 512):
        with pytest.raises(TokenizerError, match="outside the vocabulary"):
            llm.tokenizer.token_bytes(outside)


class Says:
    """A transformer that goes through a list of tokens, whatever it is asked."""

    def __init__(self, transformer, tokens):
        self.transformer, self.config, self.ops = transformer, transformer.config, transformer.ops
        self.kv, self.tokens = transformer.kv, tokens

    def new_cache(self, tokens=0):
        return self.transformer.new_cache(tokens)

    def logits(self, segments):
        rows = self.transformer.forward(segments)
        for row, segment in zip(rows, segments, strict=True):
            at = segment.position + len(segment.tokens) - 1
            row[-1:] = -1.0
            row[-1:, self.tokens[at % len(self.tokens)]] = 9.0
        return np.concatenate(rows)


def test_control_tokens_are_hidden_unless_wanted_and_a_stop_token_ends_the_text(tiny):
    control, a, b = tiny.tokenizer.special_tokens["<|im_start|>"], *tiny.tokenizer.encode("hi")
    llm = LLM((Says(tiny.transformer, [a, control, b]), tiny.tokenizer))

    def both(**params):
        given = SamplingParams(max_tokens=3, **params)
        alone, served = llm.generate([a], given), engine(llm).generate([[a]], given)[0][0]
        assert (alone.text, alone.token_ids, alone.finish_reason) == (served.text, served.token_ids, served.finish_reason)
        return alone.text, alone.token_ids, alone.finish_reason

    assert both() == ("hi", [a, control, b], "length")
    assert both(skip_special_tokens=False) == ("h<|im_start|>i", [a, control, b], "length")
    assert both(stop_token_ids=[b]) == ("h", [a, control, b], "stop")
    assert both(stop_token_ids=[control], skip_special_tokens=False, ignore_eos=True) == ("h", [a, control], "stop")
