"""Greedy text with drafts is greedy text without: every proposer, through all that the engine does to a sequence."""

from itertools import cycle
from types import SimpleNamespace

import numpy as np
import pytest
from engine_help import SMALL, drain, engine, greedy, prompts, small
from speculative_help import Counting, Knowing

from minillm import SamplingParams
from minillm.errors import ModelError
from minillm.metrics.events import TOKEN, e2e, tpot
from minillm.model.random_model import random_model
from minillm.speculative.draft_model import DraftModel, first_layers
from minillm.speculative.lookup import PromptLookup, lookup
from minillm.speculative.suffix import SuffixDecoding

LENGTH, WAYS = 40, {
    "plain": {"prefix": "hash"},
    "chunked": {"prefix": "hash", "max_tokens_per_step": 9, "max_sequences": 3},
    "recomputed": {"prefix": "hash", "num_blocks": 34, "preemption": "recompute", "watermark": 0},
    "swapped": {"num_blocks": 34, "preemption": "swap", "host_blocks": 64, "watermark": 0},
    "no prefix": {"prefix": None, "block_size": 1, "num_blocks": 512},
    "radix": {"prefix": "radix", "block_size": 16, "num_blocks": 40},
}  # fmt: skip


def right_answers(backend, texts):  # by (request, index): prompt and answer
    llm = small(backend)
    found = [llm.generate(prompt, greedy(LENGTH)).token_ids for prompt in texts]
    return {(i, 0): [*prompt, *answer] for i, (prompt, answer) in enumerate(zip(texts, found, strict=True))}


def proposer(name, backend, answers):
    target = small(backend).transformer
    makers = {
        "knowing": lambda: Knowing(answers),
        "lookup": lambda: PromptLookup(3, 1),
        "suffix": lambda: SuffixDecoding(least=0.05),
        "draft": lambda: DraftModel(random_model(SMALL, seed=0, backend=backend)[0], target),
        "self": lambda: DraftModel(first_layers(target, 1), target),
    }
    return Counting(makers[name]())


def check(name, way, gamma, batch, backend="numpy", enough=100):
    """Serve some texts with drafts until enough were kept and enough rejected, and compare each with what it is without."""
    texts = prompts(batch, longest=30)
    answers = right_answers(backend, texts)
    watched = proposer(name, backend, answers)
    made = engine(small(backend), proposer=watched, gamma=gamma, **WAYS[way])
    for _ in range(40):
        watched.proposer.answers = {}
        numbers = [made.add(prompt, greedy(LENGTH)) for prompt in texts]
        watched.proposer.answers = {(number, 0): answers[i, 0] for i, number in enumerate(numbers)}
        deltas = drain(made)
        for i, number in enumerate(numbers):
            tokens = [token for delta in deltas[number, 0] for token in delta.token_ids]
            assert tokens == answers[i, 0][len(texts[i]) :], f"{name}, {way}, γ = {gamma}: text {i} differs"
        if watched.accepted >= enough and watched.rejected >= enough:
            break
    pool = made.scheduler.pool
    assert pool.num_free == pool.num_blocks and not made.executor.drafts
    return watched, made


NAMES = ["knowing", "lookup", "suffix", "draft", "self"]
PAIRS = list(zip(cycle(NAMES), cycle(WAYS), range(1, 9), cycle([1, 8, 3, 5]), strict=False))


@pytest.mark.parametrize(("name", "way", "gamma", "batch"), PAIRS)
def test_greedy_text_is_the_same_with_drafts(name, way, gamma, batch):
    watched, _ = check(name, way, gamma, batch, enough=100 if name == "knowing" else 0)
    assert watched.accepted + watched.rejected


@pytest.mark.parametrize("way", WAYS)
def test_at_least_a_hundred_drafts_are_kept_and_a_hundred_rejected(way):
    watched, made = check("knowing", way, 4, 5)
    assert watched.accepted >= 100 and watched.rejected >= 100
    if way in ("recomputed", "swapped"):
        assert sum(e.kind == "preempted" for e in made.log.events)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("gamma", range(1, 9))
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NAMES)
def test_greedy_text_is_the_same_with_drafts_everywhere(name, way, gamma, backend):
    for batch in (1, 3, 8):
        check(name, way, gamma, batch, backend, enough=100 if name == "knowing" else 0)


@pytest.mark.parametrize(("name", "way", "gamma"), [("knowing", "plain", 4), ("self", "swapped", 3), ("draft", "chunked", 7)])
def test_greedy_text_is_the_same_on_numba(name, way, gamma):
    check(name, way, gamma, 4, "numba", enough=100 if name == "knowing" else 0)


def test_as_many_drafts_as_pay_and_the_same_text():
    texts = prompts(5, longest=30)
    answers = right_answers("numpy", texts)
    watched = Counting(Knowing(answers))
    made = engine(small(), proposer=watched, gamma=None, num_blocks=400)
    for prompt in texts:
        made.add(prompt, greedy(LENGTH))
    found = drain(made)
    for key, deltas in found.items():
        assert [t for d in deltas for t in d.token_ids] == answers[key][len(texts[key[0]]) :]
    assert watched.accepted and made.executor.lookahead.times.seen and not made.executor.lookahead.rates


def test_a_draft_equal_to_its_target_is_always_kept():
    watched, made = check("draft", "plain", 4, 3, enough=100)
    assert watched.accepted > 20 * max(1, watched.rejected), "same weights, same tokens, but for the last that has no room"


def test_stop_strings_limits_and_end_of_text_within_a_draft_are_the_end():
    llm, prompt = small(), [5, 6, 7]
    plain = llm.generate(prompt, greedy(30))
    tokens = plain.token_ids
    answers = {(number, 0): [*prompt, *tokens] for number in range(50)}
    cases = [
        greedy(7),
        greedy(30, stop_token_ids=[tokens[8]]),
        greedy(30, stop=[llm.tokenizer.decode(tokens[9:11])]),
        greedy(30, stop_token_ids=[tokens[2]], min_tokens=6),
    ]
    for gamma in (1, 3, 8):
        made = engine(llm, proposer=Knowing(answers, vocab=259), gamma=gamma)
        for params in cases:
            right = llm.generate(prompt, params)
            (found,) = made.generate([prompt], params)[0]
            assert (found.token_ids, found.text, found.finish_reason) == (right.token_ids, right.text, right.finish_reason)


def test_logprobs_and_penalties_follow_each_token_of_a_draft():
    llm, prompt = small(), [5, 6, 7, 5, 6]
    for params in (
        greedy(30, logprobs=2),
        greedy(30, repetition_penalty=1.7),
        greedy(30, presence_penalty=1.5, frequency_penalty=0.5),
        greedy(30, logit_bias={17: 3.0}),
        greedy(20, prompt_logprobs=1),
    ):
        (right,) = engine(llm).generate([prompt], params)[0]
        watched = Counting(Knowing({(0, 0): [*prompt, *right.token_ids]}))
        (found,) = engine(llm, proposer=watched).generate([prompt], params)[0]
        assert found.token_ids == right.token_ids and watched.accepted > 5
        assert [e.token_id for e in found.logprobs or []] == [e.token_id for e in right.logprobs or []]
        np.testing.assert_allclose(
            [e.logprob for e in found.logprobs or []], [e.logprob for e in right.logprobs or []], rtol=1e-4, atol=1e-5
        )
        assert (found.prompt_logprobs is None) == (right.prompt_logprobs is None)


def test_several_answers_have_drafts_of_their_own():
    made = engine(small(), proposer=PromptLookup(2, 1))
    answers = made.generate([[5, 6, 7, 5, 6]], SamplingParams(max_tokens=20, seed=3, ignore_eos=True, temperature=3.0), n=3)[0]
    assert len({tuple(a.token_ids) for a in answers}) == 3 and all(len(a.token_ids) == 20 for a in answers)


def test_a_prefix_hit_on_blocks_that_once_held_a_rejected_draft():
    llm, prompt = small(), prompts(5)[4]
    right = llm.generate(prompt, greedy(LENGTH)).token_ids
    answers = {(n, 0): [*prompt, *right] for n in range(9)}
    made = engine(llm, proposer=Knowing(answers, vocab=259), gamma=6, prefix="hash")
    for cut in (0, 9, 21, 30):
        begun = [*prompt, *right[:cut]]
        (found,) = made.generate([begun], greedy(LENGTH - cut))[0]
        assert found.token_ids == right[cut:]
    assert any(e.kind == "cached" for e in made.log.events)


def test_the_log_has_each_token_and_tpot_counts_tokens_not_steps():
    llm, prompt = small(), [5, 6, 7]
    right = llm.generate(prompt, greedy(20)).token_ids
    made = engine(llm, proposer=SimpleNamespace(propose=Knowing({(0, 0): [*prompt, *right]}).propose, forget=lambda key: None))
    number = made.add(prompt, greedy(20))
    deltas = drain(made)[number, 0]
    assert len(deltas) < 20 and len(made.log.times(number, TOKEN)) == 20
    assert tpot(made.log, number) == pytest.approx(
        (e2e(made.log, number) - made.log.times(number, TOKEN)[0] + made.log.events_of(number)[0].time) / 19
    )
    assert "".join(delta.text for delta in deltas) == llm.generate(prompt, greedy(20)).text


def test_drafts_without_a_model_are_those_of_the_slow_search():
    rng = np.random.default_rng(0)
    from minillm.speculative.lookup import NgramIndex

    for _ in range(200):
        index, tokens = NgramIndex(3, 1), rng.integers(0, 4, 2).tolist()
        for _ in range(20):
            assert index.lookup(tokens, 5) == lookup(tokens, 5, 3, 1), tokens
            tokens += rng.integers(0, 4, rng.integers(1, 4)).tolist()


def test_what_a_lookup_finds():
    assert lookup([1, 2, 3, 9, 1, 2, 3], 2) == [9, 1] and lookup([1, 2, 3, 4], 5) == []
    assert lookup([7, 8, 1, 7, 8, 2, 7, 8], 1) == [2], "the latest"
    assert lookup([1, 2, 3, 4, 9, 2, 3, 5, 1, 2, 3], 1) == [4], "the longest before the latest"
    assert lookup([5, 5, 5, 5], 3, 3, 1) == [5], "it may run into the end"
    assert lookup([], 3) == lookup([1], 3) == lookup([1, 1], 0, 1, 1) == []


def test_suffix_decoding_learns_from_texts_that_ended_and_forgets_them():
    one = SuffixDecoding(depth=3, least=0.45, remembered=12)
    params, phrase = SamplingParams(), [1, 2, 3, 4, 5, 6]

    def ask(key, tokens, n=4):
        from minillm.speculative.proposer import Text

        return one.propose([Text(key, tokens, params)], [n])[0].tokens

    assert ask("a", phrase) == []
    one.forget("a")
    assert ask("b", [9, 1, 2]) == [3, 4], "0.67, then 0.5; a third would be at 0.375"
    one.forget("b")
    for number in range(3):
        ask(number, [7, 8, 7, 8, 7, 8])
        one.forget(number)
    assert one.held <= 12 and all(token in (7, 8) for context in one.past.counts for token in context), "the first are forgotten"
    assert ask("c", [7, 8, 7], 2) == [8, 7]


def test_a_draft_model_needs_the_vocabulary_of_its_target():
    from dataclasses import replace

    target = small().transformer
    with pytest.raises(ModelError, match="vocabulary of its target: 512 tokens, found 600"):
        DraftModel(random_model(replace(SMALL, vocab_size=600))[0], target)
    with pytest.raises(ModelError, match="layer 1 to 1 of the target, found 2"):
        first_layers(target, 2)
