"""The engine: what a request says depends on the request alone; whatever happens to others, and however it ends."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from engine_help import Spoiled, drain, engine, greedy, prompts, said, small, used
from hypothesis import given, settings
from hypothesis import strategies as st

from minillm import SamplingParams
from minillm.errors import RequestError
from minillm.metrics.events import (
    ARRIVED,
    CACHED,
    CANCELLED,
    ENGINE,
    FAILED,
    FINISHED,
    PREEMPTED,
    REFUSED,
    SCHEDULED,
    STEP,
    TOKEN,
)
from minillm.model.random_model import byte_tokenizer


def kinds(one, request):
    return [e.kind for e in one.log.events_of(request)]


def alone(prompt, params, n=1, **config):
    """What the request says with an engine to itself, from the bits of invariant operations."""
    return said(engine(invariant=True, **config).generate([prompt], params, n=n))[0]


# --- one request --------------------------------------------------------------------------------------------------------------

KNOBS = {
    "greedy": greedy(),
    "sampled": greedy(temperature=1.0, seed=5),
    "top_p": greedy(temperature=0.7, top_p=0.8, top_k=40, seed=9),
    "min_p": greedy(temperature=1.3, min_p=0.05, seed=2),
    "penalty": greedy(repetition_penalty=1.7),
    "penalty_sampled": greedy(repetition_penalty=1.3, temperature=0.9, seed=1),
    "logprobs": greedy(logprobs=3),
    "one": greedy(max_tokens=1),
    "eos": greedy(max_tokens=60, ignore_eos=False, temperature=2.0, seed=1),
}


@pytest.mark.parametrize("knob", KNOBS)
def test_an_answer_is_that_of_the_plain_loop(knob):
    llm, params = small(), KNOBS[knob]
    for given_prompt in prompts(3):
        expected = llm.generate(given_prompt, params)
        (answer,) = engine().generate([given_prompt], params)[0]
        for name in ("text", "token_ids", "prompt_token_ids", "finish_reason"):
            assert getattr(answer, name) == getattr(expected, name), name
        assert [(t.token_id, list(t.top)) for t in answer.logprobs] == [(t.token_id, list(t.top)) for t in expected.logprobs]
        assert np.allclose([t.logprob for t in answer.logprobs], [t.logprob for t in expected.logprobs], atol=1e-4)


def test_a_repetition_penalty_counts_the_prompt_and_every_token_said():
    (plain,), (fair,) = (
        engine().generate([[7, 8, 9]], greedy(100))[0],
        engine().generate([[7, 8, 9]], greedy(100, repetition_penalty=1e9))[0],
    )
    assert len(set(plain.token_ids)) < 100, "the model repeats itself, or this shows nothing"
    assert len(set(fair.token_ids)) == 100 and not set(fair.token_ids) & {7, 8, 9}


def test_deltas_join_to_the_answer_and_a_stop_string_is_never_shown():
    llm = small()
    whole = llm.generate([1, 2, 3], greedy(40))
    middle = next(i for i in range(8, 30) if whole.text[i : i + 3].isascii() and len(whole.text[i : i + 3]) == 3)
    stop = whole.text[middle : middle + 3]
    one = engine()
    request = one.add([1, 2, 3], greedy(40, stop=stop))
    deltas = drain(one)[request, 0]
    assert "".join(d.text for d in deltas) == whole.text[: whole.text.find(stop)]
    assert [d.finish_reason for d in deltas] == [None] * (len(deltas) - 1) + ["stop"]
    assert all(len(d.token_ids) == 1 for d in deltas), "one token a step"


def test_text_held_back_for_a_stop_string_comes_out_at_the_end():
    llm = small()
    whole = llm.generate([1, 2, 3], greedy(12))
    one = engine()
    request = one.add([1, 2, 3], greedy(12, stop=whole.text[-1] + "never said"))
    assert "".join(d.text for d in drain(one)[request, 0]) == whole.text


def test_the_end_of_text_ends_an_answer_unless_it_is_told_not_to():
    seeds = [s for s in range(60) if 258 in said(engine().generate([[3]], greedy(60, temperature=3.0, seed=s)))[0][0]]
    params = greedy(60, ignore_eos=False, temperature=3.0, seed=seeds[0])
    (answer,) = engine().generate([[3]], params)[0]
    assert answer.token_ids[-1] == 258 and answer.finish_reason == "stop" and answer.token_ids.count(258) == 1


def test_the_context_ends_an_answer_and_blocks_of_a_pool_exactly_full_suffice():
    llm = small()
    one = engine(num_blocks=32)  # 128 tokens: the context, and the pool
    (answer,) = one.generate([[5] * 120], greedy(500))[0]
    assert len(answer.token_ids) == 8 and answer.finish_reason == "length" and used(one) == 0
    assert answer.token_ids == llm.generate([5] * 120, greedy(500)).token_ids


def test_a_tighter_context_than_the_models_holds():
    (answer,) = engine(context_length=20).generate([[5] * 15], greedy(500))[0]
    assert len(answer.token_ids) == 5
    with pytest.raises(RequestError, match="20"):
        engine(context_length=20).add([5] * 20)


def test_prompts_come_as_text_as_one_and_as_many_and_each_may_have_its_own_params():
    one = engine()
    text, lists, ids = (said(one.generate(prompt, greedy(3))) for prompt in ("ab", [[97, 98]], [97, 98]))
    assert text == lists == ids
    lengths = [[len(a) for a in answers] for answers in said(one.generate(["a", "b"], [greedy(2), greedy(5)], n=2))]
    assert lengths == [[2, 2], [5, 5]]


# --- beside others ------------------------------------------------------------------------------------------------------------


def test_n_answers_differ_and_each_is_what_it_would_be_without_the_others():
    params = greedy(12, temperature=1.0, seed=3)
    one = engine(invariant=True)
    (five,) = said(one.generate([[1, 2, 3]], params, n=5))
    assert len({tuple(a) for a in five}) == 5 and used(one) == 0
    assert said(engine(invariant=True).generate([[1, 2, 3]], params, n=2)) == [five[:2]]
    assert five[0] == alone([1, 2, 3], params)[0], "n does not change the first"
    assert said(engine(invariant=True).generate([[1, 2, 3]], replace(params, seed=4), n=2))[0] != five[:2]


def test_without_a_seed_every_request_and_answer_draws_its_own():
    (a, b), (c, d) = said(engine().generate([[1], [1]], greedy(12, temperature=1.0), n=2))
    assert len({tuple(x) for x in (a, b, c, d)}) == 4


@pytest.mark.parametrize("preemption", ["recompute", "swap"])
def test_a_seeded_request_says_the_same_alone_and_in_a_crowd_that_preempts_it(preemption):
    params, rng = greedy(24, temperature=1.0, seed=11, logprobs=2), np.random.default_rng(3)
    mine = prompts(4, seed=8)
    expected = [alone(p, params, n=2) for p in mine]
    one = engine(invariant=True, num_blocks=24, max_tokens_per_step=16, preemption=preemption, host_blocks=64)
    others = [one.add(p, greedy(int(rng.integers(1, 20)), temperature=0.5)) for p in prompts(6, seed=9)]
    requests = [one.add(p, params, n=2) for p in mine]
    others += [one.add(p, greedy(int(rng.integers(1, 20)))) for p in prompts(6, seed=10)]
    answers = {r: one.running[r].answers for r in requests}
    one.step(), one.cancel(others[2]), one.step(), one.cancel(others[-1])
    drain(one)
    assert [[a.token_ids for a in answers[r]] for r in requests] == expected
    assert any(e.kind == PREEMPTED and e.request in requests for e in one.log.events), "no request was preempted: nothing shown"
    assert used(one) == 0 and not one.scheduled and not one.running


def test_without_invariant_operations_a_seed_still_decides_but_for_the_last_bits():
    """The margin: a draw changes only where u falls within the difference of two cumulative sums, about 1e-6 of probability
    for each token; over 10 requests × 12 tokens that is once in a thousand such tests, and this one is fixed."""
    params = greedy(12, temperature=1.0, seed=7)
    given_prompts = prompts(10, seed=4)
    expected = [small().generate(p, params).token_ids for p in given_prompts]
    assert [a[0] for a in said(engine().generate(given_prompts, params))] == expected


@pytest.mark.parametrize("prefix", ["hash", "radix"])
def test_a_cached_prefix_changes_nothing_but_the_work(prefix):
    params, prompt = greedy(8), list(range(40, 61))
    one = engine(prefix=prefix, invariant=True)
    first, second = one.generate([prompt], params)[0], one.generate([prompt], params)[0]
    assert first[0].token_ids == second[0].token_ids == alone(prompt, params)[0]
    assert CACHED not in kinds(one, 0)
    assert [e.tokens for e in one.log.events_of(1) if e.kind == CACHED] == [20], "full blocks of 4, never the last token"
    other = one.add(prompt, params, salt="another tenant")
    drain(one)
    assert CACHED not in kinds(one, other)


# --- the log ------------------------------------------------------------------------------------------------------------------


def test_the_log_tells_what_happened_in_order():
    one = engine(max_tokens_per_step=16)
    request = one.add([1] * 20, greedy(4), n=2)
    drain(one)
    assert Counter(kinds(one, request)) == {ARRIVED: 1, SCHEDULED: 1, TOKEN: 8, FINISHED: 1}
    assert kinds(one, request)[:3] == [ARRIVED, SCHEDULED, TOKEN] and kinds(one, request)[-1] == FINISHED
    assert one.log.events_of(request)[0].tokens == 20
    assert Counter(e.index for e in one.log.events_of(request) if e.kind == TOKEN) == {0: 4, 1: 4}
    steps = one.log.events_of(ENGINE)
    assert {e.kind for e in steps} == {STEP} and [e.tokens for e in steps] == [16, 4, 2, 2, 2]
    times = [e.time for e in one.log.events]
    assert times == sorted(times)


def test_who_loses_a_place_is_scheduled_anew():
    one = engine(num_blocks=10)
    requests = [one.add([i] * 6, greedy(20)) for i in range(3)]
    drain(one)
    lost = [kinds(one, r).count(PREEMPTED) for r in requests]
    assert sum(lost) > 0 and [kinds(one, r).count(SCHEDULED) for r in requests] == [n + 1 for n in lost]


def test_metrics_come_with_the_completion():
    (answer,) = engine().generate([[1, 2, 3]], greedy(4))[0]
    assert answer.metrics["prompt_tokens"] == 3 and answer.metrics["new_tokens"] == 4 and answer.metrics["ttft_s"] > 0


# --- other ends ---------------------------------------------------------------------------------------------------------------


def test_cancelling_frees_everything_now_wherever_the_request_is():
    one = engine(max_sequences=2, max_tokens_per_step=8)
    running, in_prompt, waiting = (one.add(p, greedy(30)) for p in ([1, 2], [3] * 30, [4, 5]))
    one.step(), one.step()
    before = used(one)
    assert one.cancel(in_prompt) and 0 < used(one) < before
    assert one.cancel(waiting) and one.cancel(running) and used(one) == 0
    assert not one.has_work and not one.scheduler.has_work and one.step() == []
    assert not one.cancel(running) and not one.cancel(99)
    for request in (running, in_prompt, waiting):
        assert kinds(one, request)[-1] == CANCELLED and kinds(one, request).count(CANCELLED) == 1


def test_a_finished_request_cannot_be_cancelled():
    one = engine()
    request = one.add([1], greedy(2))
    drain(one)
    assert not one.cancel(request) and kinds(one, request)[-1] == FINISHED


def nan_for(first_token):
    """Logits that are not numbers for the segment that begins a certain prompt, or goes on from it."""
    caught = set()

    def after(segments, logits):
        for segment, row in zip(segments, logits, strict=True):
            if len(row) and (first_token in list(segment.tokens) or tuple(segment.cache.table.blocks[:1]) in caught):
                caught.add(tuple(segment.cache.table.blocks[:1]))
                row[:] = np.nan

    return after


@pytest.mark.parametrize("n", [1, 3])
def test_a_request_whose_logits_are_not_numbers_ends_alone_with_an_error(n):
    one = engine()
    one.executor.transformer = Spoiled(one.executor.transformer, after=nan_for(77))
    good = [one.add(p, greedy(6)) for p in ([1, 2, 3], [4] * 9)]
    bad = one.add([77, 1], greedy(6), n=n)
    good += [one.add([8], greedy(6))]
    deltas = drain(one)
    for request, prompt in zip(good, ([1, 2, 3], [4] * 9, [8]), strict=True):
        assert [t for d in deltas[request, 0] for t in d.token_ids] == small().generate(prompt, greedy(6)).token_ids
    for index in range(n):
        (delta,) = deltas[bad, index]
        assert delta.finish_reason == "error" and "NaN" in str(delta.error) and delta.token_ids == [] and delta.text == ""
    assert kinds(one, bad)[-1] == FAILED and FINISHED not in kinds(one, bad)
    assert used(one) == 0 and not one.has_work and not one.scheduler.has_work


def test_an_error_of_one_answer_ends_the_others_of_its_request_also_those_that_finished_in_that_step():
    one = engine()
    request = one.add([1, 2], greedy(4), n=3)
    for _ in range(3):
        one.step()
    last = one.running[request].answers[2]
    last.rng = None
    last.params = replace(last.params, temperature=1.0)
    deltas = one.step()
    assert [(d.index, d.finish_reason) for d in deltas] == [(0, "error"), (1, "error"), (2, "error")]
    assert used(one) == 0 and not one.has_work and kinds(one, request)[-1] == FAILED


def test_a_request_that_breaks_the_forward_pass_ends_alone():
    def spoil(segments):
        if any(77 in list(s.tokens) for s in segments):
            raise ValueError("a broken kernel")

    one = engine()
    one.executor.transformer = Spoiled(one.executor.transformer, spoil=spoil)
    a, bad, b = (one.add(p, greedy(6)) for p in ([1, 2, 3], [77, 1], [4] * 9))
    deltas = drain(one)
    for request, prompt in ((a, [1, 2, 3]), (b, [4] * 9)):
        assert [t for d in deltas[request, 0] for t in d.token_ids] == small().generate(prompt, greedy(6)).token_ids
    assert isinstance(deltas[bad, 0][0].error, ValueError) and len(deltas[bad, 0]) == 1
    assert used(one) == 0


def test_run_raises_what_ends_its_request():
    one = engine()
    one.executor.transformer = Spoiled(one.executor.transformer, after=nan_for(77))
    with pytest.raises(RequestError, match="NaN"):
        one.generate([[77], [1]], greedy(6))
    assert used(one) == 0 and not one.has_work, "the others are given up with it"
    with pytest.raises(RequestError, match="empty"):
        one.generate([[1], []], greedy(6))
    assert used(one) == 0 and not one.has_work, "and those that were accepted before one was refused"


REFUSALS = {
    "no tokens": ({"prompt": []}, "empty"),
    "too long": ({"prompt": [1] * 128}, "128 tokens"),
    "unknown token": ({"prompt": [512]}, "512"),
    "negative token": ({"prompt": [-1]}, "-1"),
    "no ids": ({"prompt": [1.5]}, "list"),
    "nothing": ({"prompt": None}, "NoneType"),
    "no answer": ({"prompt": [1], "n": 0}, "found 0"),
    "half an answer": ({"prompt": [1], "n": 1.5}, "1.5"),
    "true": ({"prompt": [1], "n": True}, "True"),
    "too many answers": ({"prompt": [1], "n": 17}, "17"),
    "never fits": ({"prompt": [1] * 60, "params": SamplingParams(max_tokens=60)}, "16"),
    "truncate": ({"prompt": [1], "truncate": "right"}, "right"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_can_never_be_served_is_refused_with_the_reason_and_changes_nothing(case):
    arguments, says = REFUSALS[case]
    one = engine(num_blocks=16)
    with pytest.raises(RequestError) as error:
        one.add(**arguments)
    assert says in str(error.value) and "\n" not in str(error.value)
    assert not one.has_work and not one.scheduler.has_work and used(one) == 0
    assert said(one.generate([[1, 2]], greedy(3))) == [[small().generate([1, 2], greedy(3)).token_ids]]


def test_a_refusal_is_in_the_log():
    one = engine()
    with pytest.raises(RequestError):
        one.add([1] * 128)
    assert kinds(one, 0) == [ARRIVED, REFUSED] and one.add([1]) == 1


def test_truncate_keeps_the_end_of_a_prompt():
    one = engine()
    request = one.add(list(range(200)), greedy(8), truncate="left")
    assert one.running[request].answers[0].prompt_token_ids == list(range(80, 200))


def test_half_a_character_waits_for_its_other_half():
    """The model is made to say 'é' byte by byte: nothing shows until it is whole."""
    one, script = engine(), list("aé".encode())
    letters = byte_tokenizer(512)
    assert letters.decode(script) == "aé"

    def after(segments, logits):
        for segment, row in zip(segments, logits, strict=True):
            row[:] = 0
            row[0, script[segment.position + len(segment.tokens) - 1]] = 1

    one.executor.transformer = Spoiled(one.executor.transformer, after=after)
    request = one.add([0], greedy(3))
    assert [d.text for d in drain(one)[request, 0]] == ["a", "", "é"]


# --- at random ----------------------------------------------------------------------------------------------------------------

ANSWERS = {}  # what each kind of request says alone: prompt number, params number -> tokens
PROMPTS = prompts(5, seed=2)
PARAMS = (greedy(9), greedy(14, temperature=1.0, seed=4), greedy(1), greedy(20, repetition_penalty=1.5))


def expected(prompt, params, n):
    key = prompt, params, n
    if key not in ANSWERS:
        ANSWERS[key] = alone(PROMPTS[prompt], PARAMS[params], n)
    return ANSWERS[key]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_whatever_comes_and_goes_answers_are_right_and_nothing_is_left(data):
    config = {
        "num_blocks": data.draw(st.integers(22, 30)),
        "policy": data.draw(st.sampled_from(["chunked", "orca", "vllm", "static"])),
        "preemption": data.draw(st.sampled_from(["recompute", "swap"])),
        "prefix": data.draw(st.sampled_from([None, "hash", "radix"])),
        "order": data.draw(st.sampled_from(["fcfs", "priority", "fair", "cache"])),
        "max_tokens_per_step": data.draw(st.integers(20, 40)),
        "host_blocks": 20,
        "watermark": 0,
        "max_sequences": 6,
    }
    one, live, answers = engine(invariant=True, **config), [], {}
    for _ in range(data.draw(st.integers(4, 40))):
        do = data.draw(st.sampled_from(["add", "add", "step", "step", "step", "cancel"]))
        if do == "add":
            prompt, params = data.draw(st.integers(0, 4)), data.draw(st.integers(0, 3))
            n, user = data.draw(st.integers(1, 3)), data.draw(st.sampled_from("ab"))
            request = one.add(PROMPTS[prompt], PARAMS[params], n=n, user=user, priority=data.draw(st.integers(0, 2)))
            answers[request] = (prompt, params, n), one.running[request].answers
            live.append(request)
        elif do == "step":
            one.step()
        elif live:
            request = live.pop(data.draw(st.integers(0, len(live) - 1)))
            assert one.cancel(request) == (FINISHED not in kinds(one, request))
    drain(one)
    assert used(one) == 0 and not one.scheduler.has_work and not one.scheduled
    if one.scheduler.host:
        assert one.scheduler.host.num_free == 20
    for request, (key, own) in answers.items():
        ends = [e.kind for e in one.log.events_of(request) if e.kind in (FINISHED, CANCELLED, FAILED)]
        assert len(ends) == 1, "every request ends exactly once"
        for mine, whole in zip(own, expected(*key), strict=True):
            assert mine.token_ids == (whole if ends == [FINISHED] else whole[: len(mine.token_ids)])


def test_bench_serving_prints_what_engine_and_invariance_cost(capsys, tmp_path):
    from golden import tiny_models

    from minillm.cli import main

    tiny_models.write_tiny("mixed", tmp_path / "mixed.gguf")
    sizes = ["--model", str(tmp_path / "mixed.gguf"), "--backend", "numpy", "--json"]
    assert main(["bench", "serving", *sizes]) == 0
    out, text = capsys.readouterr()
    result = json.loads(out)
    assert 0 < result["engine"]["overhead_s"] < result["engine"]["step_s"] and result["invariant"]["decode_slowdown"] > 0
    assert f"{result['engine']['overhead']:.1%}" in text and "batch-invariant" in text
