"""What a stranger's body becomes: a job in which every parameter counts, or an error that names the one that would not."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from server_help import SERVED, TOKENIZER, Delta, is_error

from minillm.model.logprobs import TokenLogprob
from minillm.model.sampling import SamplingParams
from minillm.server.fields import parse_json
from minillm.server.protocol import Job, parse_chat, parse_completion
from minillm.server.wire import ApiError, ChatWriter, TextWriter, encode, usage

HELLO = [{"role": "user", "content": "hello"}]
DEFAULTS = SamplingParams(temperature=1.0)


def text(**fields):
    return parse_completion({"prompt": "hello", **fields}, SERVED)


def chat(**fields):
    return parse_chat({"messages": HELLO, **fields}, SERVED)


def refused(function, *args, **fields):  # -> ApiError
    with pytest.raises(ApiError) as found:
        function(*args, **fields)
    assert 400 <= found.value.status < 500 and is_error(found.value.body())
    assert len(encode(found.value.body())) < 2000, "an error must stay small where the request was large"
    return found.value


def test_the_defaults_are_those_of_openais_reference():
    assert text() == Job(["hello"], DEFAULTS, None, 1, "", 0, False, False, False, chat=False)
    assert chat() == Job([HELLO], DEFAULTS, None, 1, "", 0, False, False, False, chat=True)


@pytest.mark.parametrize(
    ("field", "value", "where"),
    [
        ("temperature", 0, "temperature"),
        ("temperature", 1.5, "temperature"),
        ("top_p", 0.25, "top_p"),
        ("top_k", 7, "top_k"),
        ("min_p", 0.1, "min_p"),
        ("repetition_penalty", 1.25, "repetition_penalty"),
        ("seed", 12, "seed"),
        ("ignore_eos", True, "ignore_eos"),
        ("stop_token_ids", [3, 511], "stop_token_ids"),
        ("skip_special_tokens", False, "skip_special_tokens"),
        ("presence_penalty", -0.5, "presence_penalty"),
        ("frequency_penalty", 1.5, "frequency_penalty"),
        ("min_tokens", 9, "min_tokens"),
        ("prompt_logprobs", 3, "prompt_logprobs"),
    ],
)
@pytest.mark.parametrize("parse", [text, chat])
def test_each_sampling_parameter_reaches_the_engine_and_touches_no_other(parse, field, value, where):
    expected = {name: getattr(DEFAULTS, name) for name in DEFAULTS.__slots__} | {where: value}
    assert parse(**{field: value}).params == SamplingParams(**expected)


def test_the_other_parameters_reach_the_engine():
    asked = {
        "n": 3,
        "stop": ["a", "bc"],
        "max_tokens": 9,
        "user": "ann",
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    for job in (text(**asked, logprobs=2), chat(**asked, logprobs=True, top_logprobs=2)):
        assert (job.n, job.max_tokens, job.user, job.stream, job.include_usage, job.usage_each) == (3, 9, "ann", True, True, True)
        assert (job.params.stop, job.params.logprobs) == (("a", "bc"), 2)
    assert text(stop="x").params.stop == ("x",)
    assert text(logprobs=0).params.logprobs == 0 and chat(logprobs=True).params.logprobs == 0
    assert chat(logprobs=False).params.logprobs is None
    assert chat(max_completion_tokens=8).max_tokens == 8 == chat(max_completion_tokens=8, max_tokens=8).max_tokens
    assert refused(chat, max_completion_tokens=8, max_tokens=9).param == "max_tokens"
    assert text(top_k=-1).params.top_k == 0
    assert chat(n=None, stop=None, temperature=None, stream_options=None) == chat(), "null is the same as left out"


def test_a_priority_counts_only_where_the_order_is_by_priority():
    fields = {"prompt": "a", "priority": -3}
    assert parse_completion(fields, replace(SERVED, by_priority=True)).priority == -3
    assert refused(parse_completion, fields, SERVED).param == "priority"
    assert text(priority=0) == text()


def test_what_a_client_leaves_out_is_as_the_model_wants_it():
    served = replace(SERVED, sampling={"temperature": 0.6, "top_k": 20, "repetition_penalty": 1.1})

    def params(**fields):
        return parse_completion({"prompt": "a", **fields}, served).params

    assert params() == SamplingParams(temperature=0.6, top_k=20, repetition_penalty=1.1)
    assert params(temperature=1.0, top_k=-1) == SamplingParams(temperature=1.0, repetition_penalty=1.1), "the request wins"
    assert params(temperature=0) == SamplingParams(temperature=0), "greedy stays greedy"
    assert params(temperature=0, top_k=3) == SamplingParams(temperature=0, top_k=3)


def test_a_bias_is_by_token_id_as_json_has_it():
    assert text(logit_bias={"5": -100, "511": 1.5}).params.logit_bias == {5: -100.0, 511: 1.5}
    assert chat(logit_bias={}).params.logit_bias == {}


def test_an_echo_scores_the_prompt_where_logprobs_are_asked_and_may_want_no_token():
    assert text(echo=True).echo and text(echo=True).params.prompt_logprobs is None
    assert text(echo=True, logprobs=2).params.prompt_logprobs == 2 == text(echo=True, logprobs=2).params.logprobs
    assert text(echo=True, logprobs=2, prompt_logprobs=0).params.prompt_logprobs == 0
    assert not text(echo=True, logprobs=2).prompt_scores and text(prompt_logprobs=1).prompt_scores
    assert text(echo=True, max_tokens=0).max_tokens == 0
    assert refused(text, echo=False, max_tokens=0).param == "max_tokens", "and without an echo there would be nothing"
    assert refused(text, echo=True, max_tokens=-1).param == "max_tokens"
    assert refused(chat, echo=True).param == "echo" == refused(text, echo=1).param
    assert refused(text, stream=True, prompt_logprobs=1).param == "prompt_logprobs"
    assert text(stream=True, echo=True, logprobs=1).params.prompt_logprobs == 1


def test_at_least_is_no_more_than_at_most():
    assert text(min_tokens=200).params.min_tokens == 200
    assert text(min_tokens=9, max_tokens=9).params.min_tokens == 9
    error = refused(text, min_tokens=10, max_tokens=9)
    assert error.param == "min_tokens" and "9" in str(error) and "10" in str(error)


def test_a_negative_seed_is_a_seed_of_its_own():
    seeds = [text(seed=s).params.seed for s in (-(2**63), -2, -1, 0, 1, 2**63 - 1)]
    assert len(set(seeds)) == 6 and min(seeds) >= 0


WRONG = {
    "temperature": ["1", True, [], -0.1, 2.1],
    "top_p": [0, 1.1, "x", {}],
    "n": [0, 257, 1.5, "2", True, -1],
    "max_tokens": [0, -1, 2.5, "9", 2**40],
    "seed": [1.5, "1", 2**63, True],
    "stop": [5, [5], [""], "", ["a"] * 5, "x" * 257, {}, [["a"]]],
    "user": [5, "u" * 513, []],
    "stream": [1, "true", []],
    "stream_options": [True, [], {"include_usage": True}],
    "model": [5, [], {}],
    "top_k": [1.5, -2, "1"],
    "min_p": [1.5, -1, "0"],
    "repetition_penalty": [0, "1", 1000],
    "ignore_eos": [1, "yes"],
    "stop_token_ids": [5, "5", [512], [-1], [1.5], [True], [[1]], [1] * 129, {}],
    "skip_special_tokens": [0, "no", []],
    "priority": [1.5, "1", 1],
    "presence_penalty": [2.5, -2.1, "1", True, []],
    "frequency_penalty": [2.5, -2.1, "1", False, {}],
    "logit_bias": [[], 5, "x", {"a": 1}, {"-1": 1}, {"512": 1}, {"1.5": 1}, {"": 1}, {"\u0663": 1}, {"5": 101}, {"5": -100.5},
                   {"5": "1"}, {"5": None}, {"5": True}, {str(i): 1 for i in range(1025)}],
    "min_tokens": [-1, 1.5, "1", True, 2**40],
    "prompt_logprobs": [-1, 21, 1.5, True, "1"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values], ids=repr)
@pytest.mark.parametrize("parse", [text, chat])
def test_a_wrong_type_or_range_is_an_error_that_names_the_field(parse, name, value):
    error = refused(parse, **{name: value})
    assert error.param == name and name in str(error)


@pytest.mark.parametrize("value", [-1, 21, 1.5, True, "1", []])
def test_logprobs_have_a_range_and_a_type(value):
    assert refused(text, logprobs=value).param == "logprobs"
    assert refused(chat, logprobs=True, top_logprobs=value).param == "top_logprobs"
    assert refused(chat, top_logprobs=2).param == "top_logprobs"
    assert refused(chat, logprobs=2).param == "logprobs"


NOT_SUPPORTED = {
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "tool_choice": "required",
    "functions": [{"name": "f"}],
    "function_call": {"name": "f"},
    "response_format": {"type": "json_object"},
    "best_of": 2,
    "suffix": "end",
    "modalities": ["text", "audio"],
    "audio": {"voice": "alloy"},
    "store": True,
    "service_tier": "flex",
    "reasoning_effort": "high",
    "verbosity": "low",
    "web_search_options": {},
}
MEANS_NOTHING = {
    "tools": [],
    "tool_choice": "auto",
    "functions": [],
    "function_call": "none",
    "response_format": {"type": "text"},
    "logit_bias": {},
    "presence_penalty": 0,
    "frequency_penalty": 0.0,
    "best_of": 1,
    "echo": False,
    "suffix": "",
    "modalities": ["text"],
    "store": False,
    "service_tier": "auto",
    "verbosity": "medium",
    "parallel_tool_calls": True,
    "metadata": {"a": "b"},
    "prompt_cache_key": "k",
    "safety_identifier": "s",
    "prediction": {"type": "content", "content": "x"},
}


@pytest.mark.parametrize("parse", [text, chat])
@pytest.mark.parametrize("name", NOT_SUPPORTED)
def test_a_parameter_that_would_change_the_answer_is_refused_by_name(parse, name):
    error = refused(parse, **{name: NOT_SUPPORTED[name]})
    assert (error.param, error.code) == (name, "unsupported_parameter") and name in str(error)
    assert parse(**{name: None}) == parse()


@pytest.mark.parametrize("parse", [text, chat])
def test_what_means_nothing_is_accepted_and_changes_nothing(parse):
    for name, value in MEANS_NOTHING.items():
        assert parse(**{name: value}) == parse(), name
    assert parse(**MEANS_NOTHING) == parse()


@pytest.mark.parametrize(("name", "value"), [("best_of", True), ("store", 0)])
def test_true_is_not_one_and_false_is_not_zero(name, value):
    assert refused(text, **{name: value}).param == name


@pytest.mark.parametrize("name", ["foo", "Temperature", "max_token", "\ud800", "", "x" * 10_000, "__class__"])
def test_an_unknown_field_is_refused_by_name(name):
    error = refused(text, **{name: None})
    assert error.code == "unknown_parameter" and error.param == name[:64]
    assert refused(text, stream=True, stream_options={"include_usag": True}).param == "stream_options.include_usag"


def test_the_model_is_the_one_that_is_served():
    assert text(model="fake") == text()
    error = refused(text, model="gpt-4")
    assert (error.status, error.code, error.param) == (404, "model_not_found", "model")


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2, 511]], [[1], [2, 511]]), ([0], [[0]])],
)
def test_a_prompt_has_four_forms(prompt, prompts):
    assert text(prompt=prompt).prompts == prompts


@pytest.mark.parametrize(
    "prompt",
    [
        None,
        [],
        [[]],
        5,
        True,
        {},
        [True],
        [1.5],
        [512],
        [-1],
        [[1], [512]],
        ["a", [1]],
        [[1], "a"],
        [1, "a"],
        [[["a"]]],
        ["a"] * 257,
        [None],
        [2**70],
    ],
    ids=str,
)
def test_any_other_prompt_is_an_error(prompt):
    assert refused(text, prompt=prompt).param == "prompt"


def test_prompts_times_n_have_a_limit():
    assert text(prompt=["a"] * 128, n=2).n == 2
    assert refused(text, prompt=["a"] * 128, n=3).param == "n"


def test_messages_may_hold_text_or_parts_of_text():
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    given_ = [{"role": "developer", "content": "be brief"}, {"role": "user", "content": parts, "name": None, "tool_calls": []}]
    expected = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "one\ntwo"}]
    assert chat(messages=given_).prompts == [expected]


@pytest.mark.parametrize(
    ("messages", "where"),
    [
        (None, "messages"),
        ("hello", "messages"),
        ([], "messages"),
        ({}, "messages"),
        (["hello"], "messages[0]"),
        ([[]], "messages[0]"),
        ([{"content": "x"}], "messages[0].role"),
        ([{"role": 5, "content": "x"}], "messages[0].role"),
        ([{"role": [], "content": "x"}], "messages[0].role"),
        ([{"role": "tool", "content": "x"}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": 5}], "messages[0].content"),
        ([*HELLO, {"role": "user", "content": []}], "messages[1].content"),
        ([{"role": "user", "content": ["x"]}], "messages[0].content"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], "messages[0].content"),
        ([{"role": "user", "content": [{"type": "text", "text": 5}]}], "messages[0].content"),
        ([{"role": "user", "content": "x", "name": "ann"}], "messages[0]"),
        ([{"role": "assistant", "content": "x", "tool_calls": [{}]}], "messages[0]"),
    ],
)
def test_a_message_that_cannot_be_served_is_named(messages, where):
    assert refused(chat, messages=messages).param == where


@pytest.mark.parametrize(
    ("parse", "fields", "param"),
    [
        (text, {"prompt": "a\ud800b"}, "prompt"),
        (text, {"prompt": ["a", "\udfff"]}, "prompt"),
        (text, {"stop": "\ud800"}, "stop"),
        (text, {"user": "\udc00"}, "user"),
        (chat, {"messages": [{"role": "user", "content": "\ud83d"}]}, "messages[0].content"),
        (chat, {"messages": [{"role": "user", "content": [{"type": "text", "text": "\ud83d"}]}]}, "messages[0].content"),
        (text, {"model": "\ud800"}, "model"),
    ],
)
def test_half_a_surrogate_pair_is_no_text(parse, fields, param):
    assert refused(parse, **fields).param == param


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"5",
        b"null",
        b'"x"',
        b'{"a":1}x',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b'{"a":-1e999}',
        b'{"a":1,"a":2}',
        b'{"a":{"b":1,"b":1}}',
        b"\xff",
        b'{"a":"\xc3"}',
        b'\xef\xbb\xbf{"a":1}',
        b"{'a':1}",
        b'{"a":' + b"9" * 5000 + b"}",
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b'{"a":"\x00"}',
        '{"a":1}'.encode("utf-16"),
        b"\xed\xa0\x80",
    ],
)
def test_what_is_not_json_is_an_error(data):
    assert refused(parse_json, data).status == 400


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_an_object_or_an_error(data):
    try:
        assert isinstance(parse_json(data), dict)
    except ApiError as error:
        assert is_error(error.body())


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(), max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KNOWN = ["prompt", "messages", "logprobs", "top_logprobs", "max_completion_tokens", *WRONG, *NOT_SUPPORTED, *MEANS_NOTHING]


@given(st.dictionaries(st.sampled_from(KNOWN) | st.text(max_size=5), json_values, max_size=4), st.booleans())
@example({"stop": [[]], "stream": {}}, True)
def test_any_object_is_a_job_or_an_error_that_can_be_sent(fields, for_chat):
    base = {"messages": HELLO} if for_chat else {"prompt": "hello"}
    try:
        job = (parse_chat if for_chat else parse_completion)(base | fields, SERVED)
    except ApiError as error:
        assert is_error(json.loads(encode(error.body()))) and 400 <= error.status < 500
    else:
        assert 1 <= job.n * len(job.prompts) <= 256 and 0 <= job.params.temperature <= 2


def test_usage_adds_up():
    assert usage(5, 7, 3) == {
        "prompt_tokens": 5,
        "completion_tokens": 7,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 3},
    }


SMILE = "\U0001f600".encode()


def deltas_of_a_smile():
    """Four tokens, one character, then a letter; log-probabilities that JSON has no number for."""
    texts = ["", "", "", "\U0001f600", "a"]
    tops = {97: -0.5, 98: -math.inf}
    tokens = [TOKENIZER.encode(chr(97))[0]]
    by_byte = {TOKENIZER.token_bytes(i): i for i in range(256)}
    tokens = [by_byte[bytes([b])] for b in (*SMILE, 97)]
    records = [TokenLogprob(t, -1.0 * k if k else -math.inf, tops) for k, t in enumerate(tokens)]
    return [
        Delta(1, 0, piece, [t], [r], "stop" if k == 4 else None)
        for k, (piece, t, r) in enumerate(zip(texts, tokens, records, strict=True))
    ]


def test_the_chunks_of_an_answer_add_up_to_the_whole_one():
    for writer_class, get in ((TextWriter, lambda c: c["text"]), (ChatWriter, lambda c: c["delta"]["content"])):
        deltas = deltas_of_a_smile()
        writer = writer_class("m", TOKENIZER.token_bytes)
        pieces = [writer.piece(0, d) for d in deltas]
        whole = writer.choice(0, deltas)
        assert "".join(get(p) for p in pieces) == "\U0001f600a" == whole.get("text", whole.get("message", {}).get("content"))
        assert [p["finish_reason"] for p in pieces] == [None] * 4 + ["stop"] and whole["finish_reason"] == "stop"
        for key, values in whole["logprobs"].items():
            if values is not None:
                assert [v for p in pieces for v in p["logprobs"][key]] == values, key
        assert json.loads(encode(whole)) == whole, "not one number that JSON does not have"
    roles = [p["delta"].get("role") for p in pieces]
    assert roles == ["assistant", None, None, None, None]


def test_logprobs_name_every_token_so_that_no_two_look_alike():
    whole = TextWriter("m", TOKENIZER.token_bytes).choice(0, deltas_of_a_smile())["logprobs"]
    assert whole["tokens"] == ["bytes:\\xf0", "bytes:\\x9f", "bytes:\\x98", "bytes:\\x80", "a"]
    assert whole["token_logprobs"] == [-9999.0, -1.0, -2.0, -3.0, -4.0]
    assert whole["text_offset"] == [0, 0, 0, 0, 1]
    assert all(name in top for name, top in zip(whole["tokens"], whole["top_logprobs"], strict=True)), "the chosen one is there"
    content = ChatWriter("m", TOKENIZER.token_bytes).choice(0, deltas_of_a_smile())["logprobs"]["content"]
    assert b"".join(bytes(entry["bytes"]) for entry in content) == SMILE + b"a"
    assert [len(entry["top_logprobs"]) for entry in content] == [2] * 5
