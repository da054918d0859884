"""The executor: what a plan says, in the order it says it, and nothing else. The plans here are made by hand."""

import numpy as np
import pytest
from engine_help import Spoiled, small

from minillm.engine.answer import Delta
from minillm.engine.executor import ModelExecutor
from minillm.model.transformer import Segment
from minillm.scheduler.plan import Executor, Plan, SequenceId, Share

A, B, C = SequenceId(1, 0), SequenceId(2, 0), SequenceId(2, 1)
PROMPT = [5, 6, 7, 8, 9, 10, 11]


class Drawing:
    """An answer that asks `rule(sequence, found)` for a token and a reason to end; greedy: it is content with the likeliest."""

    plain, rng = False, None  # it looks at logits itself

    def __init__(self, sequence, rule, greedy):
        self.sequence, self.rule, self.greedy = sequence, rule, greedy

    def unscored(self, position, count):
        return range(0)

    def next_tokens(self, found, draft, eos_ids):
        token, reason = self.rule(self.sequence, found[0])
        return Delta(*self.sequence, "", [token], [], reason)


def executor(backend="numpy", rule=None, greedy=False, **options):
    """Blocks of 4 tokens, all filled with values that no request wrote. By default it draws the likeliest token."""
    options = {"num_blocks": 12, "block_size": 4, "host_blocks": 6, **options}
    made = ModelExecutor(small(backend).transformer, **options)
    rule = rule or (lambda sequence, found: (int(found if greedy else found.argmax()), None))
    made.answers = {r: [Drawing(SequenceId(r, i), rule, greedy) for i in range(3)] for r in range(8)}
    for store in filter(None, (made.store, made.host)):
        store.k[:], store.v[:] = 7, 7
    return made


def likeliest(tokens, backend="numpy"):
    """The token after these, by the contiguous cache."""
    transformer = small(backend).transformer
    return int(transformer.forward([Segment(tokens, 0, transformer.new_cache())])[0][-1].argmax())


BACKENDS = pytest.mark.parametrize("backend", ["numpy", "numba"])


@BACKENDS
def test_a_prompt_in_chunks_and_then_decode_in_blocks_that_lie_anywhere(backend):
    one = executor(backend)
    assert one.execute(Plan([Share(A, PROMPT[:3], 0, [9])])).tokens == {}
    assert one.execute(Plan([Share(A, PROMPT[3:], 3, [9, 2], (A,))])).tokens == {A: [likeliest(PROMPT, backend)]}
    more = [*PROMPT, likeliest(PROMPT, backend)]
    for i in range(4):
        ((token,),) = one.execute(Plan([Share(A, more[-1:], 7 + i, [9, 2, 0][: 2 + (7 + i) // 8], (A,))])).tokens.values()
        assert token == likeliest(more, backend)
        more.append(token)
    untouched = sorted({*range(12)} - {9, 2, 0})
    assert (one.store.k[:, untouched] == 7).all() and (one.store.v[:, untouched] == 7).all()
    assert one.store.pool.num_free == 12, "who owns what is the scheduler's business"


@BACKENDS
def test_prefill_and_decode_share_a_step(backend):
    one = executor(backend)
    one.execute(Plan([Share(A, PROMPT, 0, [1, 0], (A,))]))
    more = [*PROMPT, 3]
    outcome = one.execute(
        Plan([Share(A, [3], 7, [1, 0], (A,)), Share(B, [40, 41, 42], 0, [4], (B, C)), Share(SequenceId(3, 0), [9, 9], 0, [5])])
    )
    first = likeliest([40, 41, 42], backend)
    assert outcome.tokens == {A: [likeliest(more, backend)], B: [first], C: [first]} and not outcome.failed


@BACKENDS
def test_decode_of_many_together_with_shared_blocks(backend):
    one = executor(backend)
    one.execute(Plan([Share(B, [1, 2, 3, 4], 0, [6])]))
    outcome = one.execute(Plan([Share(B, [5], 4, [6, 1], (B,)), Share(C, [9], 4, [6, 3], (C,))]))
    assert outcome.tokens == {B: [likeliest([1, 2, 3, 4, 5], backend)], C: [likeliest([1, 2, 3, 4, 9], backend)]}


def test_logits_are_computed_only_where_a_token_is_drawn():
    one = executor()
    one.transformer = Spoiled(one.transformer)
    one.execute(Plan([Share(A, PROMPT, 0, [1, 2]), Share(B, [3], 0, [0], (B,))]))
    assert one.transformer.steps == [[(PROMPT, 0, "none"), ([3], 0, "last")]]


def test_an_empty_plan_computes_nothing():
    one = executor()
    one.transformer = Spoiled(one.transformer)
    outcome = one.execute(Plan())
    assert outcome.tokens == outcome.finished == outcome.failed == {} and one.transformer.steps == []


def test_swaps_out_go_before_swaps_in_and_those_before_copies_and_all_before_the_tokens():
    """One block of the device is needed by all four at once: each must find what the one before left."""
    one = executor()
    one.store.k[:] = np.arange(12)[None, :, None, None, None]
    one.store.v[:] = -one.store.k
    one.host.k[:] = 100 + np.arange(6)[None, :, None, None, None]
    one.host.v[:] = -one.host.k
    plan = Plan(swaps_out=[(3, 0), (4, 1)], swaps_in=[(0, 5), (2, 3)], copies=[(3, 7), (7, 8), (5, 3)])
    one.execute(plan)
    blocks, host = one.store.k[0, :, 0, 0, 0], one.host.k[0, :, 0, 0, 0]
    assert host[:3].tolist() == [3, 4, 102]
    assert blocks[[3, 4, 5, 7, 8]].tolist() == [3, 4, 3, 102, 102]
    assert (one.store.v == -one.store.k).all() and (one.store.k == one.store.k[:1, :, :1, :1, :1]).all(), "every layer and token"


def test_a_copied_block_is_written_by_its_new_owner_alone():
    one = executor()
    one.execute(Plan([Share(B, [1, 2], 0, [6])]))
    outcome = one.execute(Plan([Share(B, [3], 2, [6], (B,)), Share(C, [4], 2, [2], (C,))], copies=[(6, 2)]))
    assert outcome.tokens == {B: [likeliest([1, 2, 3])], C: [likeliest([1, 2, 4])]}


def test_a_sequence_goes_to_the_host_and_comes_back_elsewhere():
    one = executor()
    one.execute(Plan([Share(A, PROMPT, 0, [1, 2])]))
    one.execute(Plan([Share(B, [1] * 8, 0, [1, 2])], swaps_out=[(1, 5), (2, 0)]))
    outcome = one.execute(Plan([Share(A, [4], 7, [8, 3], (A,))], swaps_in=[(5, 8), (0, 3)]))
    assert outcome.tokens == {A: [likeliest([*PROMPT, 4])]}


def test_no_host_memory_is_taken_where_nothing_is_swapped():
    assert executor(host_blocks=0).host is None


def test_each_answer_draws_from_its_row_and_says_why_it_ends():
    asked = []

    def rule(sequence, logits):
        asked.append((sequence, logits.shape))
        return 3 + sequence.index, ("stop" if sequence == C else None)

    outcome = executor(rule=rule).execute(Plan([Share(B, [1, 2], 0, [6], (B, C)), Share(A, [4], 0, [0], (A,))]))
    assert asked == [(B, (512,)), (C, (512,)), (A, (512,))]
    assert outcome.tokens == {B: [3], C: [4], A: [3]} and outcome.finished == {C: "stop"}
    assert [(d.request, d.index, d.token_ids) for d in outcome.deltas] == [(2, 0, [3]), (2, 1, [4]), (1, 0, [3])]


@BACKENDS
def test_answers_that_are_all_greedy_are_given_tokens_and_one_that_is_not_gives_all_of_them_rows(backend):
    shapes = []

    def rule(sequence, found):
        shapes.append(np.shape(found))
        return int(found if np.ndim(found) == 0 else found.argmax()), None

    one = executor(backend, rule, greedy=True)
    plan = Plan([Share(A, PROMPT, 0, [1, 2], (A,)), Share(B, [3, 4], 0, [0], (B, C))])
    right = {A: [likeliest(PROMPT, backend)], **dict.fromkeys((B, C), [likeliest([3, 4], backend)])}
    assert one.execute(plan).tokens == right and shapes == [()] * 3
    shapes.clear()
    one.answers[2][1].greedy = False
    assert one.execute(plan).tokens == right and shapes == [(512,)] * 3


def test_it_is_an_executor():
    assert isinstance(executor(), Executor)


def test_who_cannot_choose_fails_with_its_request_and_no_token_of_it_is_left():
    asked = []

    def rule(sequence, logits):
        asked.append(sequence)
        if sequence == C:
            raise ValueError("no")
        return 1, "stop"

    outcome = executor(rule=rule).execute(
        Plan([Share(B, [1, 2], 0, [6], (B, C, SequenceId(2, 2))), Share(A, [4], 0, [0], (A,))])
    )
    assert outcome.tokens == {A: [1]} and outcome.finished == {A: "stop"} and [*outcome.failed] == [2]
    assert [d.request for d in outcome.deltas] == [1], "and no delta: its readers are told of the error alone"
    assert asked == [B, C, A], "the third of a request that has failed is not asked"


@BACKENDS
def test_a_failed_forward_is_tried_again_share_by_share_and_the_good_ones_come_out_right(backend):
    one = executor(backend)
    one.execute(Plan([Share(A, PROMPT, 0, [1, 2])]))
    inner = one.transformer

    def after(segments, logits):
        if any(77 in s.tokens for s in segments):
            raise FloatingPointError("after the keys were written")

    one.transformer = Spoiled(inner, after=after)
    outcome = one.execute(
        Plan(
            [Share(A, [4], 7, [1, 2], (A,)), Share(B, [77], 0, [6], (B,)), Share(SequenceId(3, 0), [2, 3], 0, [7])],
            copies=[(1, 9)],
        )
    )
    assert outcome.tokens == {A: [likeliest([*PROMPT, 4], backend)]}
    assert [*outcome.failed] == [2] and isinstance(outcome.failed[2], FloatingPointError)
    assert [len(s) for s in one.transformer.steps] == [3, 1, 1, 1]


def test_keys_that_are_not_numbers_fail_the_one_who_has_them():
    """NaN in a page: attention itself refuses, for the whole step at first."""
    one = executor()
    one.execute(Plan([Share(A, PROMPT, 0, [1, 2]), Share(B, [1, 2], 0, [6])]))
    one.store.k[:, 6, 0] = np.nan
    outcome = one.execute(Plan([Share(A, [4], 7, [1, 2], (A,)), Share(B, [3], 2, [6], (B,))]))
    assert outcome.tokens == {A: [likeliest([*PROMPT, 4])]} and [*outcome.failed] == [2]
