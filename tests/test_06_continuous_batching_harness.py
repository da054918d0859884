"""What an evaluation harness asks of a server: log-likelihoods by echo, tokens by /tokenize; in the shapes it sends.

lm-evaluation-harness (its model `local-completions`) scores a continuation like this: prompt and continuation as token ids,
several in a call, echo true, logprobs 1, max_tokens 1, temperature 0, a seed; then it sums token_logprobs[context:-1] and
looks whether each token is the largest of its top_logprobs. These tests send the same and compare with a forward pass.
"""

import json

import numpy as np
import oracles
import pytest
from engine_help import prompts, small
from server_help import CHAT, HELLO, SERVED, TEXT, TOKENIZER, FakeEngine, call, events, is_error, post, running, say, served

from minillm import SamplingParams
from minillm.model.random_model import byte_tokenizer
from minillm.model.transformer import Segment
from minillm.server.tokens import make_echo


@pytest.fixture(scope="module")
def port():
    """A small model with a prefix cache and short steps: prompts are cut, and later ones find their beginnings cached."""
    with served(max_tokens_per_step=16, prefix="hash", max_sequences=4, num_blocks=40) as (port, _):
        yield port


def loglikelihood(context, continuation):  # -> sum, whether greedy decoding would say it
    """By one forward pass and plain float64."""
    ids, transformer = context + continuation, small().transformer
    (logits,) = transformer.forward([Segment(ids, 0, transformer.new_cache(), "all")])
    rows = [oracles.softmax(row.astype(float).tolist()) for row in logits[len(context) - 1 : -1]]
    greedy = all(int(np.argmax(row)) == token for row, token in zip(rows, continuation, strict=True))
    return sum(float(np.log(row[token])) for row, token in zip(rows, continuation, strict=True)), greedy


def harness(port, pairs, **more):  # [(context, continuation)] -> [(sum, greedy)], as the harness reads an answer
    asked = {"model": "small", "prompt": [a + b for a, b in pairs], "temperature": 0, "max_tokens": 1, "logprobs": 1,
             "seed": 1234, "echo": True}  # fmt: skip
    status, _, values = post(port, TEXT, asked | more)
    assert status == 200, values
    found = []
    for choice, (context, _) in zip(sorted(values["choices"], key=lambda c: c["index"]), pairs, strict=True):
        own, top = (choice["logprobs"][name][len(context) : -1] for name in ("token_logprobs", "top_logprobs"))
        found.append((sum(own), all(token == max(best.values()) for token, best in zip(own, top, strict=True))))
    return found


def test_the_sums_that_the_harness_makes_are_those_of_a_forward_pass(port):
    """Multiple choice: one context with several continuations, of which one is what greedy decoding says."""
    rng = np.random.default_rng(7)
    pairs = []
    for context in (rng.integers(0, 512, n).tolist() for n in (1, 4, 9, 30, 61)):
        said = small().generate(context, SamplingParams(max_tokens=3, ignore_eos=True)).token_ids
        pairs += [(context, said), *((context, rng.integers(0, 512, n).tolist()) for n in (1, 2, 6))]
    for _ in range(2):  # the second time all prompts are in the prefix cache
        for found, pair in zip(harness(port, pairs), pairs, strict=True):
            expected = loglikelihood(*pair)
            assert abs(found[0] - expected[0]) < 1e-4 * len(pair[1]) and found[1] == expected[1]
    assert [greedy for _, greedy in harness(port, pairs)].count(True) >= 5


def test_one_call_for_all_and_a_call_for_each_say_the_same(port):
    pairs = [(a, b) for a, b in zip(prompts(6), prompts(6, seed=1), strict=True)]
    together = harness(port, pairs)
    alone = [harness(port, [pair])[0] for pair in pairs]
    assert np.allclose([s for s, _ in together], [s for s, _ in alone], atol=1e-4)


def test_no_token_at_all_where_max_tokens_is_0(port):
    ids = prompts(4)[-1]
    one = {"prompt": ids, "echo": True, "logprobs": 2, "temperature": 0}
    _, _, zero = post(port, TEXT, one | {"max_tokens": 0})
    _, _, some = post(port, TEXT, one | {"max_tokens": 2, "ignore_eos": True})
    (a,), (b,) = zero["choices"], some["choices"]
    assert zero["usage"]["completion_tokens"] == 0 and a["finish_reason"] == "length" and a["stop_reason"] is None
    assert b["text"].startswith(a["text"]) and len(b["logprobs"]["tokens"]) == len(ids) + 2
    for name, values in a["logprobs"].items():
        assert values == b["logprobs"][name][: len(ids)], name
    assert a["logprobs"]["token_logprobs"][0] is None and a["logprobs"]["top_logprobs"][0] is None
    assert all(len(top) in (2, 3) for top in a["logprobs"]["top_logprobs"][1:])
    status, _, values = post(port, TEXT, {"prompt": ids, "max_tokens": 0})
    assert status == 400 and values["error"]["param"] == "max_tokens"


def test_the_text_of_an_echo_is_the_prompt_and_the_offsets_point_into_it(port):
    for prompt in ("hello", "día 🙂", TOKENIZER.encode("hello"), TOKENIZER.encode("día 🙂")):
        text = prompt if isinstance(prompt, str) else TOKENIZER.decode(prompt)
        asked = {"prompt": prompt, "echo": True, "logprobs": 0, "max_tokens": 3, "temperature": 0, "ignore_eos": True}
        (choice,) = post(port, TEXT, asked)[2]["choices"]
        new = small().generate(prompt, SamplingParams(max_tokens=3, ignore_eos=True)).text
        assert choice["text"] == text + new
        found = choice["logprobs"]
        for token, at in zip(found["tokens"], found["text_offset"], strict=True):
            assert token.startswith("bytes:") or choice["text"][at:].startswith(token) or not new
        assert found["text_offset"][-3] == len(text)


def test_an_echo_has_no_scores_where_none_are_asked_and_each_answer_has_its_own(port):
    asked = {"prompt": ["ab", "cde"], "echo": True, "n": 2, "max_tokens": 2, "seed": 1, "ignore_eos": True}
    choices = post(port, TEXT, asked)[2]["choices"]
    assert [c["index"] for c in choices] == [0, 1, 2, 3] and all(c["logprobs"] is None for c in choices)
    assert [c["text"][:2] for c in choices] == ["ab", "ab", "cd", "cd"]


def test_a_stream_echoes_in_the_first_chunk_of_each_answer(port):
    asked = {"prompt": "hello", "echo": True, "logprobs": 1, "max_tokens": 4, "n": 2, "seed": 3, "ignore_eos": True}
    whole = post(port, TEXT, asked)[2]["choices"]
    *chunks, done = events(call(port, "POST", TEXT, asked | {"stream": True})[2])
    assert done == "[DONE]" and len(chunks) == 8, "as many chunks as tokens"
    for index in range(2):
        pieces = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        assert "".join(p["text"] for p in pieces) == whole[index]["text"]
        assert pieces[0]["text"].startswith("hello") and pieces[-1]["stop_reason"] is None
        for name, values in whole[index]["logprobs"].items():
            assert [v for p in pieces for v in p["logprobs"][name]] == values, name


def test_prompt_logprobs_are_laid_out_as_vllm_does(port):
    ids = prompts(4)[-1]
    asked = {"prompt": ids, "prompt_logprobs": 2, "max_tokens": 1, "temperature": 0}
    (choice,) = post(port, TEXT, asked)[2]["choices"]
    first, *rest = choice["prompt_logprobs"]
    assert first is None and len(rest) == len(ids) - 1 and choice["logprobs"] is None
    for entries, token in zip(rest, ids[1:], strict=True):
        assert set(entries[str(token)]) == {"logprob", "rank", "decoded_token"} and len(entries) in (2, 3)
        assert sorted(e["rank"] for e in entries.values())[:2] == [1, 2]
        order = sorted(entries.values(), key=lambda e: e["rank"])
        assert [e["logprob"] for e in order] == sorted((e["logprob"] for e in order), reverse=True)
    total = sum(e[str(t)]["logprob"] for e, t in zip(rest, ids[1:], strict=True))
    assert abs(total - loglikelihood(ids[:1], ids[1:])[0]) < 1e-3
    chat = post(port, CHAT, {"messages": HELLO, "prompt_logprobs": 0, "max_tokens": 2})[2]
    assert chat["prompt_logprobs"][0] is None and len(chat["prompt_logprobs"]) == chat["usage"]["prompt_tokens"]
    assert "prompt_logprobs" not in chat["choices"][0]
    assert "prompt_logprobs" not in post(port, TEXT, {"prompt": ids, "max_tokens": 1})[2]["choices"][0]


def test_new_fields_reach_the_model_and_the_reason_comes_back(port):
    nine = TOKENIZER.encode("9")[0]
    base = {"prompt": "hello", "max_tokens": 8, "temperature": 0, "logit_bias": {str(nine): 100}}
    (choice,) = post(port, TEXT, base)[2]["choices"]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("9" * 8, "length", None)
    (choice,) = post(port, TEXT, base | {"stop": ["x", "99"], "min_tokens": 4})[2]["choices"]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("999", "stop", "99")
    chat = {"messages": HELLO, **{k: v for k, v in base.items() if k != "prompt"}, "stop_token_ids": [nine], "min_tokens": 2}
    values = post(port, CHAT, chat)[2]
    assert values["choices"][0]["stop_reason"] == nine and values["usage"]["completion_tokens"] == 3
    lively = {"prompt": "hello", "max_tokens": 30, "temperature": 0, "ignore_eos": True, "logprobs": 0}
    spread = post(port, TEXT, lively | {"frequency_penalty": 2.0, "presence_penalty": 2.0})[2]["choices"][0]["logprobs"]["tokens"]
    again = post(port, TEXT, lively | {"frequency_penalty": -2.0})[2]["choices"][0]["logprobs"]["tokens"]
    assert len(set(spread)) > len(set(again))


def test_min_tokens_beyond_what_an_open_answer_gets_is_a_400_that_names_it(port):
    status, _, values = post(port, TEXT, {"prompt": "hello", "min_tokens": 17})
    assert status == 400 and values["error"]["param"] == "min_tokens" and "16" in values["error"]["message"]


# --- tokens -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fake():
    with running(FakeEngine()) as (port, _):
        yield port


def test_tokenize_and_detokenize_are_each_others_inverse(fake):
    for text in ("hello", "día 🙂", "", "<|im_end|>"):
        status, _, values = post(fake, "/tokenize", {"model": "fake", "prompt": text, "add_special_tokens": False})
        assert status == 200 and values["tokens"] == TOKENIZER.encode(text, bos=False)
        assert (values["count"], values["max_model_len"], values["token_strs"]) == (len(values["tokens"]), 300, None)
        assert post(fake, "/detokenize", {"tokens": values["tokens"]})[2] == {"prompt": text}


def test_the_tokens_of_a_text_and_a_chat_are_those_that_their_endpoints_compute(fake):
    text = post(fake, "/tokenize", {"prompt": "hello"})[2]
    assert text["count"] == post(fake, TEXT, {"prompt": "hello", "max_tokens": 1})[2]["usage"]["prompt_tokens"]
    chat = post(fake, "/tokenize", {"messages": HELLO, "return_token_strs": True})[2]
    assert chat["tokens"] == TOKENIZER.apply_chat_template(HELLO) and len(chat["token_strs"]) == chat["count"]
    assert chat["count"] == post(fake, CHAT, {"messages": HELLO, "max_tokens": 1})[2]["usage"]["prompt_tokens"]
    bare = post(fake, "/tokenize", {"messages": HELLO, "add_generation_prompt": False})[2]
    assert bare["tokens"] == TOKENIZER.apply_chat_template(HELLO, add_generation_prompt=False) != chat["tokens"]


def test_the_answer_to_a_prompt_of_tokenized_ids_is_that_to_its_text(fake):
    ids = post(fake, "/tokenize", {"prompt": "hello"})[2]["tokens"]
    assert post(fake, TEXT, {"prompt": ids, "max_tokens": 4, "seed": 1})[2]["choices"][0]["text"] == say(ids, 4, seed=1)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": [1, 2]}, "prompt"),
        ("/tokenize", {"prompt": "a\ud800"}, "prompt"),
        ("/tokenize", {"prompt": "a" * 5000}, "prompt"),
        ("/tokenize", {"prompt": "a", "add_special_tokens": 1}, "add_special_tokens"),
        ("/tokenize", {"prompt": "a", "model": "gpt-4"}, "model"),
        ("/tokenize", {"prompt": "a", "foo": 1}, "foo"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"messages": HELLO, "prompt": "a"}, "prompt"),
        ("/tokenize", {"messages": HELLO, "continue_final_message": True}, "continue_final_message"),
        ("/tokenize", {"messages": HELLO, "chat_template": "x"}, "chat_template"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": "abc"}, "tokens"),
        ("/detokenize", {"tokens": [512]}, "tokens"),
        ("/detokenize", {"tokens": [1.5]}, "tokens"),
        ("/detokenize", {"tokens": [True]}, "tokens"),
        ("/detokenize", {"tokens": [1], "skip": True}, "skip"),
    ],
    ids=str,
)
def test_mistakes_are_4xx_that_name_the_field(fake, path, body, param):
    status, _, values = post(fake, path, json.dumps(body).encode())
    assert 400 <= status < 500 and is_error(values) and values["error"]["param"] == param


def test_they_need_a_key_and_a_body_of_json():
    with running(FakeEngine(), api_key="k") as (port, _):
        for path in ("/tokenize", "/detokenize"):
            assert post(port, path, {"prompt": "a"})[0] == 401
            assert call(port, "GET", path, headers={"Authorization": "Bearer k"})[0] == 405
            assert call(port, "POST", path, b"{", {"Authorization": "Bearer k"})[0] == 400
        assert call(port, "GET", "/tokenizer_info")[0] == 401


def test_tokenizer_info_names_the_special_tokens_and_the_template(fake):
    info = json.loads(call(fake, "GET", "/tokenizer_info")[2])
    names = TOKENIZER.vocabulary.tokens
    assert info["eos_token"] == names[TOKENIZER.eos_id] and info["chat_template"] == TOKENIZER.chat.source
    assert info["bos_token"] == names[TOKENIZER.bos_id] and info["model_max_length"] == SERVED.max_length


def test_an_echo_of_a_text_begins_at_0_though_a_begin_of_text_token_comes_first():
    tokenizer = byte_tokenizer(512)
    ids = [tokenizer.bos_id, *tokenizer.encode("ab", bos=False)]
    assert make_echo(tokenizer, "ab", ids, True).offsets == [0, 0, 1]
    mark = len(tokenizer.vocabulary.tokens[tokenizer.bos_id])
    echo = make_echo(tokenizer, ids, ids, False)
    assert echo.offsets == [0, mark, mark + 1] and echo.text == tokenizer.decode(ids) and not echo.scored
