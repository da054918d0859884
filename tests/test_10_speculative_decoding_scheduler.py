"""Drafts in the scheduler: what room they get, what is left of them in tables and in the prefix cache. No model is needed."""

import pytest
from scheduler_help import NOBODYS, loop, request

ROOMY = {"num_blocks": 100, "block_size": 4, "max_sequences": 4, "max_tokens_per_step": 64, "policy": "chunked", "watermark": 0}


def guessing(right, wrong=0, *requests, **config):
    """A loop in which each step proposes so many tokens that are right, and then so many that are wrong."""
    made = loop(guesses=lambda id, length: (right, wrong), **(ROOMY | config))
    for one in requests:
        made.add(one)
    return made


def sizes(plan):
    return [(len(share.tokens), share.drafts) for share in plan.shares]


def test_a_decode_verifies_its_drafts_and_grows_by_those_that_are_right_and_one():
    made = guessing(3, 2, request(1, prompt=4, max_tokens=20))
    assert sizes(made.step()) == [(4, 0)]
    assert sizes(made.step()) == [(6, 5)]
    (sequence,) = made.scheduler.sequences.values()
    assert len(sequence.tokens) == 4 + 1 + 4 and sequence.table.length == 4 + 4, "three drafts and one more; the last is not fed"
    assert made.kept == 3 and made.rejected == 2


def test_all_wrong_is_a_decode_step_and_all_right_a_step_of_gamma_and_one():
    for right, wrong, steps in ((0, 4, 1 + 11), (3, 0, 1 + 3)):
        made = guessing(right, wrong, request(1, prompt=4, max_tokens=12))
        while made.scheduler.has_work:
            made.step()
        assert made.steps == steps, (right, wrong)


def test_no_draft_goes_beyond_the_last_token():
    made = guessing(8, 0, request(1, prompt=4, max_tokens=4))
    made.step()
    assert sizes(made.step()) == [(3, 2)], "three tokens are left: two drafts, and the one after them"
    assert not made.scheduler.has_work
    made = guessing(8, 0, request(1, prompt=4, max_tokens=2))
    made.step()
    assert sizes(made.step()) == [(1, 0)], "one is left: nothing to guess"


def test_drafts_take_what_prompts_leave_of_a_step():
    made = guessing(4, 0, request(1, prompt=4, max_tokens=20), max_tokens_per_step=8)
    made.step()
    made.add(request(2, prompt=13, max_tokens=2))
    plan = made.step()
    assert sizes(plan) == [(1, 0), (7, 0)] and plan.tokens == 8, "a prompt is waiting: it gets all of the budget"
    plan = made.step()
    assert sizes(plan) == [(2, 1), (6, 0)] and plan.tokens == 8, "its rest leaves room for one"


def test_drafts_take_no_block_that_the_watermark_keeps_and_preempt_nobody():
    made = guessing(4, 0, request(1, prompt=4, max_tokens=9), request(2, prompt=4, max_tokens=9), num_blocks=6, watermark=2)
    made.step()
    assert [drafts for _, drafts in sizes(made.step())] == [3, 3], "what fits the block that is there already"
    while made.scheduler.has_work:
        assert not made.step().preempted
    assert made.preempted == 0 and made.kept


def test_a_rejected_draft_gives_its_blocks_back():
    made = guessing(0, 9, request(1, prompt=4, max_tokens=20))
    made.step()
    for _ in range(3):
        used = made.scheduler.pool.num_blocks - made.scheduler.pool.num_free
        assert used == len(next(iter(made.scheduler.sequences.values())).table.blocks) <= 2
        assert made.step().shares[0].drafts == 9


@pytest.mark.parametrize("prefix", ["hash", "radix"])
def test_the_prefix_cache_gets_what_was_kept_and_nothing_that_was_rejected(prefix):
    made = guessing(5, 3, request(1, prompt=4, max_tokens=20), prefix=prefix)
    made.step(), made.step()
    (sequence,) = made.scheduler.sequences.values()
    assert sequence.table.length == 10
    cache = made.scheduler.cache
    assert cache.cached_length([*sequence.tokens[:10], 0]) == 8, "both full blocks, that of drafts included"
    wrong = [*sequence.tokens[:10], NOBODYS, NOBODYS]
    assert cache.cached_length([*wrong, 0]) == 8, "the third block holds rejected tokens"
    made.cancel(1)
    made.add(request(2, prompt=[*wrong, 1], max_tokens=4))
    share = made.step().shares[0]
    assert share.position == 8 and share.tokens == [*wrong[8:], 1], "what a rejected draft left in a block is not read"


def test_what_was_proposed_once_is_not_proposed_again():
    made = guessing(3, 0, request(1, prompt=4, max_tokens=20))
    made.step()
    made.guesses = None
    assert sizes(made.step()) == [(4, 3)]
    assert sizes(made.step()) == [(1, 0)]


@pytest.mark.parametrize("preemption", ["recompute", "swap"])
def test_a_preempted_sequence_goes_on_with_its_own_text(preemption):
    made = guessing(2, 1, *[request(i, prompt=4, max_tokens=16) for i in range(1, 4)], num_blocks=10, preemption=preemption,
                    host_blocks=20)  # fmt: skip
    while made.scheduler.has_work:
        made.step()
    assert made.preempted and made.kept >= 10 and made.rejected >= 10


def test_every_answer_of_a_request_has_drafts_of_its_own():
    made = guessing(2, 0, request(1, prompt=6, max_tokens=12, n=3))
    made.step()
    plan = made.step()
    assert sizes(plan) == [(3, 2)] * 3 and len({tuple(share.tokens) for share in plan.shares}) > 1
    while made.scheduler.has_work:
        made.step()
