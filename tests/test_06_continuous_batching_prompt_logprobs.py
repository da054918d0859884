"""Log-probabilities of a prompt: those of one direct forward pass, however the scheduler cuts, caches and preempts it."""

import numpy as np
import oracles
import pytest
from engine_help import SMALL, drain, engine, greedy, prompts, small

from minillm import SamplingParams, Session
from minillm.gateway.session import Part
from minillm.llm import Conversation
from minillm.metrics.events import CACHED, PREEMPTED
from minillm.model import logprobs
from minillm.model.generate import prefill
from minillm.model.transformer import Segment
from minillm.scheduler.request import Request, SequenceGroup

PROMPT = np.random.default_rng(2).integers(0, 512, 23).tolist()
WANTED = {"prompt_logprobs": 3}


def direct(prompt, llm=None):  # -> [None, log p of token 1, ...], (positions, vocab)
    """By one forward pass over the whole prompt with all logits, and a softmax in plain float64."""
    transformer = (llm or small()).transformer
    (logits,) = transformer.forward([Segment(prompt, 0, transformer.new_cache(), "all")])
    rows = np.log([oracles.softmax(row.astype(float).tolist()) for row in logits])
    return [None, *(float(row[token]) for row, token in zip(rows, prompt[1:], strict=False))], rows


def check(found, prompt, count=3):
    expected, rows = direct(prompt)
    assert len(found) == len(prompt) and found[0] is None
    for record, logprob, row, token in zip(found[1:], expected[1:], rows, prompt[1:], strict=False):
        assert record.token_id == token and abs(record.logprob - logprob) < 1e-4
        best = np.sort(row)[::-1]
        assert len(record.top) == count and np.allclose([*record.top.values()], best[:count], atol=1e-4)
        rank = 1 + np.count_nonzero(row > row[token])
        assert record.rank == rank or abs(best[rank - 1] - best[record.rank - 1]) < 1e-4


@pytest.mark.parametrize("prompt", [*prompts(5), PROMPT], ids=lambda p: f"{len(p)} tokens")
def test_they_are_those_of_a_direct_forward_pass(prompt):
    params = greedy(4, **WANTED)
    one = small().generate(prompt, params)
    check(one.prompt_logprobs, prompt)
    ((two,),) = engine().generate([prompt], params)
    check(two.prompt_logprobs, prompt)
    assert one.token_ids == two.token_ids == small().generate(prompt, greedy(4)).token_ids, "and the answer is as without"


def test_nobody_who_has_not_asked_gets_them_nor_is_computed_otherwise():
    core = engine()
    logits = core.executor.transformer.logits
    heads = []
    core.executor.transformer = type("Counted", (), {"logits": lambda self, s: (heads.append(len(s)), logits(s))[1],
                                                     "config": SMALL, "ops": small().transformer.ops})()  # fmt: skip
    ((done,),) = core.generate([PROMPT], greedy(3))
    assert done.prompt_logprobs is None and len(heads) == 3, "no `hidden`, no `head_of`: it has none"
    assert small().generate(PROMPT, greedy(1)).prompt_logprobs is None


@pytest.mark.parametrize("chunk", [1, 5, 16])
def test_a_prompt_in_chunks_is_scored_chunk_by_chunk(chunk):
    core = engine(max_tokens_per_step=chunk, max_sequences=1)
    ((done,),) = core.generate([PROMPT], greedy(3, **WANTED))
    check(done.prompt_logprobs, PROMPT)
    assert done.token_ids == small().generate(PROMPT, greedy(3)).token_ids
    sequence = small().sequence(0, PROMPT, greedy(3, **WANTED))
    prefill(small().transformer, sequence, chunk)
    check(sequence.prompt_logprobs, PROMPT)


def test_no_more_logits_than_a_piece_are_in_memory_at_once(monkeypatch):
    monkeypatch.setattr(logprobs, "ROWS", 4)
    transformer, rows = small().transformer, []
    head = transformer.head_of
    monkeypatch.setattr(transformer, "head_of", lambda x, wanted: (rows.append(len(wanted)), head(x, wanted))[1])
    done = small().generate(PROMPT, greedy(1, **WANTED))
    assert rows == [4, 4, 4, 4, 4, 2, 1], "22 positions of the prompt, and the one that chooses the answer's first token"
    check(done.prompt_logprobs, PROMPT)


@pytest.mark.parametrize("prefix", ["hash", "radix"])
def test_what_the_prefix_cache_holds_is_computed_again_and_still_serves_others(prefix):
    core = engine(prefix=prefix)
    core.generate([PROMPT], greedy(2))
    ((scored,),) = core.generate([PROMPT], greedy(2, **WANTED))
    check(scored.prompt_logprobs, PROMPT)
    ((plain,),) = core.generate([PROMPT], greedy(2))
    cached = [sum(e.tokens for e in core.log.events_of(r) if e.kind == CACHED) for r in core.log.requests()]
    assert cached == [0, 0, 20] and plain.token_ids == scored.token_ids
    assert core.scheduler.pool.num_free == core.scheduler.pool.num_blocks, "all blocks are free again"


@pytest.mark.parametrize("preemption", ["recompute", "swap"])
@pytest.mark.parametrize("prefix", [None, "hash"])
def test_a_preempted_request_has_each_of_them_once(preemption, prefix):
    """A pool for two and a half requests of six: they take turns, in their prompts and after."""
    core = engine(num_blocks=20, host_blocks=40, preemption=preemption, prefix=prefix, max_tokens_per_step=8, max_sequences=6)
    asked = [np.random.default_rng(s).integers(0, 512, 15 + s).tolist() for s in range(6)]
    done = core.generate(asked, greedy(16, **WANTED))
    assert any(e.kind == PREEMPTED for r in core.log.requests() for e in core.log.events_of(r))
    for prompt, (answer,) in zip(asked, done, strict=True):
        check(answer.prompt_logprobs, prompt)
        assert answer.token_ids == small().generate(prompt, greedy(16)).token_ids


def test_once_its_prompt_is_scored_a_preempted_request_may_take_what_the_cache_holds():
    group = SequenceGroup(Request(0, PROMPT, 9, whole=True))
    assert not group.reuses and SequenceGroup(Request(1, PROMPT, 9)).reuses
    group.live[0].tokens.append(5)
    assert group.reuses


def test_all_answers_of_a_request_have_them_and_the_first_delta_of_each_brings_them():
    core = engine(prefix="hash", num_blocks=24)
    core.add(PROMPT, SamplingParams(max_tokens=9, temperature=1.0, seed=4, ignore_eos=True, **WANTED), n=3)
    core.add(PROMPT[:9], greedy(9))
    for (request, _), deltas in drain(core).items():
        assert all(d.prompt_logprobs is None for d in deltas[1:])
        if request == 0:
            check(deltas[0].prompt_logprobs, PROMPT)
        else:
            assert deltas[0].prompt_logprobs is None


def test_they_come_beside_logprobs_in_a_batch_with_others():
    params = [greedy(5), greedy(5, logprobs=2, **WANTED), greedy(5, prompt_logprobs=0, temperature=0.7, seed=1)]
    done = [answers[0] for answers in engine(max_tokens_per_step=16).generate([PROMPT] * 3, params)]
    check(done[1].prompt_logprobs, PROMPT)
    check(done[2].prompt_logprobs, PROMPT, 0)
    assert [len(r.top) for r in done[1].logprobs] == [2] * 5 and done[0].token_ids == done[1].token_ids


def test_of_one_token_there_is_none():
    assert small().generate([5], greedy(1, **WANTED)).prompt_logprobs == [None]


def test_a_conversation_and_a_session_compute_what_they_hold_again():
    session = Session(small(), min_tokens=4, capacity=64, block_size=4)
    parts = [Part(PROMPT, cache=True)]
    first, again, last = (session.generate(parts, greedy(2, **more)) for more in ({}, WANTED, {}))
    check(again.completion.prompt_logprobs, PROMPT)
    assert [r.usage.cache_read_tokens for r in (first, again, last)] == [0, 0, len(PROMPT) - 1]
    talk = Conversation(small())
    for params in (greedy(2), greedy(2, **WANTED)):
        list(talk.say("a", params))
    check(talk.last.prompt_logprobs, talk.last.prompt_token_ids)


def test_logits_that_are_no_numbers_fail_that_request_alone(monkeypatch):
    core = engine()
    head = small().transformer.head_of
    spoiled = np.full((2, 512), np.nan, np.float32)
    monkeypatch.setattr(small().transformer, "head_of", lambda x, rows: spoiled if len(rows) == 2 else head(x, rows))
    bad, good = core.add([5, 77, 6], greedy(2, **WANTED)), core.add(PROMPT[:5], greedy(2, **WANTED))
    out = drain(core)
    assert out[bad, 0][-1].error is not None and "NaN" in str(out[bad, 0][-1].error)
    assert [d.error for d in out[good, 0]] == [None, None] and len(out[good, 0][0].prompt_logprobs) == 5
