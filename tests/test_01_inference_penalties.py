"""Presence and frequency penalties, logit_bias, min_tokens, stop_reason: what each does to the logits, and to a text."""

from collections import Counter

import numpy as np
import oracles
import pytest
from engine_help import drain, engine, small
from hypothesis import given
from hypothesis import strategies as st

from minillm import LLM, SamplingParams
from minillm.errors import RequestError
from minillm.model.random_model import byte_tokenizer, random_model
from minillm.model.sampling import distribution, sample
from minillm.model.stopping import StopStrings

PROMPT = [5, 6, 7, 8, 5]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("presence_penalty", 2.5, "presence_penalty must be at least -2 and at most 2, found 2.5"),
        ("frequency_penalty", -3, "found -3"),
        ("frequency_penalty", "1", "found '1'"),
        ("min_tokens", -1, "min_tokens must be at least 0"),
        ("min_tokens", 129, "min_tokens must be at most max_tokens = 128, found 129"),
        ("prompt_logprobs", 101, "prompt_logprobs must be at least 0 and at most 100"),
        ("logit_bias", [1], "logit_bias must map token ids to numbers"),
        ("logit_bias", {5: 101}, "logit_bias: a bias is a number from -100 to 100, found 101 for token 5"),
        ("logit_bias", {5: float("nan")}, "found nan"),
        ("logit_bias", {-1: 1}, "logit_bias: a token id is a whole number of at least 0, found -1"),
        ("logit_bias", {"x": 1}, "found 'x'"),
        ("logit_bias", {True: 1}, "found True"),
    ],
)
def test_a_value_out_of_range_is_refused_with_both_numbers(name, value, says):
    with pytest.raises(RequestError) as error:
        SamplingParams(**{name: value})
    assert says in str(error.value)


def test_a_bias_takes_ids_as_numbers_and_as_json_has_them():
    assert SamplingParams(logit_bias={"7": 1, 8: np.float32(2), np.int64(9): 3}).logit_bias == {7: 1.0, 8: 2.0, 9: 3.0}
    assert SamplingParams(logit_bias=None) == SamplingParams() and hash(SamplingParams()) == hash(SamplingParams())


DOORS = {"LLM": lambda params: small().sequence(0, PROMPT, params), "engine": lambda params: engine().add(PROMPT, params)}


@pytest.mark.parametrize("make", DOORS.values(), ids=DOORS)
def test_a_bias_on_a_token_that_the_model_has_not_is_refused_when_it_comes(make):
    make(SamplingParams(logit_bias={511: 1.0}))
    with pytest.raises(RequestError, match="logit_bias: token ids must be 0 to 511, found 512"):
        make(SamplingParams(logit_bias={3: 1.0, 512: 1.0}))


@given(
    st.lists(st.floats(-9, 9, width=32), min_size=6, max_size=6),
    st.lists(st.integers(0, 5), max_size=9),
    st.floats(-2, 2),
    st.floats(-2, 2),
    st.dictionaries(st.integers(0, 5), st.floats(-100, 100), max_size=3),
)
def test_penalties_and_bias_are_those_of_openais_formula(logits, said, presence, frequency, bias):
    """mu[j] - c[j] * frequency - (c[j] > 0) * presence, with the bias added; c counts the answer alone."""
    counts = Counter(said)
    expected = [x + bias.get(j, 0) - counts[j] * frequency - (counts[j] > 0) * presence for j, x in enumerate(logits)]
    params = SamplingParams(temperature=1, presence_penalty=presence, frequency_penalty=frequency, logit_bias=bias)
    found = distribution(np.array(logits, np.float32), params, seen=[0, 1, *said], counts=counts)
    np.testing.assert_allclose(found, oracles.softmax(expected), rtol=1e-9, atol=1e-300)


def test_bias_comes_before_the_penalties_as_in_vllm():
    """The repetition penalty divides what is positive: with the bias first, token 0 has (1 + 3) / 2."""
    params = SamplingParams(temperature=1, repetition_penalty=2.0, presence_penalty=0.5, logit_bias={0: 3.0})
    found = distribution(np.array([1.0, 0.0], np.float32), params, seen=[0], counts={0: 1})
    np.testing.assert_allclose(found, oracles.softmax([1.5, 0.0]), rtol=1e-12)


def test_forbidden_tokens_are_never_drawn_and_ids_beyond_the_vocabulary_do_no_harm():
    logits = np.array([9.0, 1.0, 8.0], np.float32)
    assert sample(logits, SamplingParams(), None, forbidden={0, 7}) == 2
    assert distribution(logits, SamplingParams(temperature=1), forbidden=[0, 2]).tolist() == [0, 1, 0]
    assert logits.tolist() == [9, 1, 8]


# --- a text -----------------------------------------------------------------------------------------------------------------


def both(params, llm=None, prompt=PROMPT):
    """What LLM and engine say: the same."""
    llm = llm or small()
    (one,), (((two,),)) = llm.generate([prompt], params), engine(llm).generate([prompt], params)
    assert (one.token_ids, one.text, one.finish_reason) == (two.token_ids, two.text, two.finish_reason)
    assert one.stop_reason == two.stop_reason and one.prompt_logprobs == two.prompt_logprobs
    return one


PLAIN = {"max_tokens": 24, "ignore_eos": True}


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_a_frequency_penalty_spreads_the_answer_and_a_negative_one_repeats_it(temperature):
    def distinct(**params):
        return len(set(both(SamplingParams(**PLAIN, temperature=temperature, seed=3, **params)).token_ids))

    assert distinct(frequency_penalty=2.0) >= distinct() >= distinct(frequency_penalty=-2.0)
    assert distinct(frequency_penalty=2.0) > distinct(frequency_penalty=-2.0)


def test_a_presence_penalty_counts_the_answer_and_not_the_prompt():
    """With penalties, the first token is as without: nothing of an answer is there yet, whatever the prompt holds."""
    first = both(SamplingParams(**PLAIN)).token_ids[0]
    again = both(SamplingParams(**PLAIN, presence_penalty=2.0), prompt=[*PROMPT[:-1], first, PROMPT[-1]])
    assert again.token_ids[0] == both(SamplingParams(**PLAIN), prompt=[*PROMPT[:-1], first, PROMPT[-1]]).token_ids[0]


def test_a_bias_demands_a_token_or_forbids_it():
    plain = both(SamplingParams(**PLAIN))
    assert both(SamplingParams(**PLAIN, logit_bias={9: 100})).token_ids == [9] * 24
    banned = both(SamplingParams(**PLAIN, logit_bias={plain.token_ids[0]: -100})).token_ids
    assert plain.token_ids[0] not in banned


def ending():
    """A model that wants to end at once: a bias of 100 on its end-of-text token."""
    tokenizer = byte_tokenizer(512)
    return LLM((random_model(small().config)[0], tokenizer)), tokenizer.eos_id


@pytest.mark.parametrize("least", [0, 1, 5])
def test_no_end_of_text_before_min_tokens(least):
    llm, eos = ending()
    done = both(SamplingParams(max_tokens=12, min_tokens=least, logit_bias={eos: 100}), llm)
    assert len(done.token_ids) == least + 1 and done.token_ids[-1] == eos and done.finish_reason == "stop"
    assert done.stop_reason is None, "the end of text is no stop of the request's"


def test_no_stop_token_before_min_tokens_and_then_it_is_the_reason():
    done = both(SamplingParams(max_tokens=12, min_tokens=3, stop_token_ids=[9], logit_bias={9: 100}))
    assert len(done.token_ids) == 4 and (done.finish_reason, done.stop_reason) == ("stop", 9)
    assert 9 not in done.token_ids[:3]


def test_a_greedy_answer_in_an_engine_keeps_min_tokens_too():
    """It takes the likeliest token from the device, and no logits: not so while some tokens may not come."""
    first = both(SamplingParams(**PLAIN)).token_ids[0]
    done = both(SamplingParams(**PLAIN, min_tokens=3, stop_token_ids=[first]))
    assert len(done.token_ids) > 3 and first not in done.token_ids[:3]
    assert len(both(SamplingParams(**PLAIN, stop_token_ids=[first])).token_ids) == 1


def letters(text, **params):
    """An answer that says `text` whatever the logits are, token by token, through a bias of its own each time."""
    llm = small()
    ids = llm.tokenizer.encode(text)
    sequence = llm.sequence(0, PROMPT, SamplingParams(max_tokens=len(ids), ignore_eos=True, **params))
    for token in ids:
        if sequence.finish_reason is None:
            sequence.accept(token, llm.tokenizer.eos_ids, 999)
    return sequence.text, sequence.stop_reason, len(sequence.token_ids)


def test_stop_strings_are_not_looked_for_before_min_tokens():
    assert letters("abcabcabc", stop="bc") == ("a", "bc", 3)
    assert letters("abcabcabc", stop="bc", min_tokens=3) == ("abca", "bc", 6), "the third token may not end one"
    assert letters("abcabcabc", stop="bc", min_tokens=2) == ("a", "bc", 3), "one that began earlier may end now"
    assert letters("abcabc", stop=["x", "bca"], min_tokens=1) == ("a", "bca", 4)
    assert letters("abcabc", stop="bc", min_tokens=6) == ("abcabc", None, 6)


@given(st.text("ab", max_size=12), st.integers(0, 12), st.sampled_from(["a", "ab", "aba", "bb"]))
def test_no_stop_string_ends_before_min_tokens_and_the_first_that_ends_after_does(text, least, stop):
    stops, shown = StopStrings([stop]), ""
    for n, letter in enumerate(text, 1):
        shown += stops.push(letter, look=n > least)
    shown += stops.flush()
    ends = [n for n in range(least + 1, len(text) + 1) if text[:n].endswith(stop)]
    assert shown == (text[: ends[0] - len(stop)] if ends else text)
    assert stops.hit == (stop if ends else None)


def test_the_reason_is_in_the_deltas_of_an_engine():
    core = engine()
    core.add(PROMPT, SamplingParams(max_tokens=9, stop_token_ids=[9], logit_bias={9: 100}), n=2)
    core.add(PROMPT, SamplingParams(max_tokens=2, ignore_eos=True))
    ends = {key: (d[-1].finish_reason, d[-1].stop_reason) for key, d in drain(core).items()}
    assert ends == {(0, 0): ("stop", 9), (0, 1): ("stop", 9), (1, 0): ("length", None)}
