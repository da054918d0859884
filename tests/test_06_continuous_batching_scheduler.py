"""The scheduler by hand: schedules that can be worked out on paper, policy by policy, and with several answers to a prompt."""

from itertools import product

import pytest
from block_help import lines_run
from hypothesis import given
from hypothesis import strategies as st
from scheduler_help import ROOMY, request, schedule, shown, started

from minillm.scheduler.config import POLICIES, SchedulerConfig
from minillm.scheduler.plan import Plan, SequenceId, StepResult
from minillm.scheduler.scheduler import Scheduler
from minillm.scheduler.step import split_budget

# --- policies ---------------------------------------------------------------------------------------------------------------

THREE = [(0, 4, 3), (1, 3, 5), (2, 5, 2)]  # id, prompt, max_tokens; two seats
BY_HAND = {
    "static": ["0:4 1:3", "0:1 1:1", "0:1 1:1", "1:1", "1:1", "2:5", "2:1"],
    "orca": ["0:4 1:3", "0:1 1:1", "0:1 1:1", "1:1 2:5", "1:1 2:1"],
    "vllm": ["0:4 1:3", "0:1 1:1", "0:1 1:1", "2:5", "1:1 2:1", "1:1"],
    "chunked": ["0:4 1:3", "0:1 1:1", "0:1 1:1", "1:1 2:5", "1:1 2:1"],
}


@pytest.mark.parametrize("policy", POLICIES)
def test_three_requests_on_two_seats(policy):
    engine = started(*(request(*r) for r in THREE), policy=policy, max_sequences=2, max_tokens_per_step=8)
    assert schedule(engine) == BY_HAND[policy]


def test_a_prompt_is_cut_to_what_decodes_leave_of_the_budget():
    engine = started(*(request(*r) for r in THREE), policy="chunked", max_sequences=2, max_tokens_per_step=5)
    assert schedule(engine) == ["0:4 1:1", "0:1 1:2", "0:1 1:1", "1:1 2:4", "1:1 2:1", "1:1 2:1"]


def test_a_batch_is_filled_over_several_steps_before_it_decodes():
    engine = started(*(request(i, 5, 3) for i in range(5)), policy="static", max_tokens_per_step=12)
    assert schedule(engine) == ["0:5 1:5", "2:5 3:5", *["0:1 1:1 2:1 3:1"] * 2, "4:5", "4:1", "4:1"]


def test_a_batch_that_decodes_is_closed_to_those_who_come():
    engine = started(request(0, 4, 4), policy="static")
    found = [shown(engine.step()), shown(engine.step())]
    engine.add(request(1, 4, 2))
    assert found + schedule(engine) == ["0:4", "0:1", "0:1", "0:1", "1:4", "1:1"]


def test_a_whole_prompt_waits_for_a_step_that_can_take_it_and_no_request_slips_past():
    engine = started(request(0, 4, 6), request(1, 4, 3), policy="orca", max_tokens_per_step=8)
    engine.step()
    engine.add(request(2, 7, 1))
    engine.add(request(3, 1, 1))
    assert schedule(engine) == ["0:1 1:1", "0:1 1:1", "0:1 2:7", "0:1 3:1", "0:1"]


def test_prefill_first_lets_the_others_decode_now_and_then():
    engine = started(request(0, 4, 4), policy="vllm", patience=2, max_tokens_per_step=5)
    found = []
    for i in range(1, 9):
        engine.add(request(i, 5, 1))
        found.append(shown(engine.step()))
    assert found == ["0:4", "1:5", "0:1", "2:5", "3:5", "0:1", "4:5", "5:5"]


def test_when_the_only_one_to_decode_must_leave_the_step_goes_to_the_prompts():
    """0 ends; 1 computes its prompt again, 2 enters beside it and fills the pool; its first decode finds no block."""
    engine = started(request(0, 4, 6), request(1, 4, 6, n=2), request(2, 16, 2), num_blocks=5, policy="vllm", patience=1)
    assert schedule(engine) == ["0:4 1:4", *["0:1 1:1 1b1"] * 4, "0:1", "1:4 2:16", "1:5 1b5", "2:17"]


@given(st.lists(st.sampled_from([0, 1, 1, 2, 3, 9, 40]), max_size=8), st.integers(0, 30))
def test_the_budget_goes_to_decodes_first_then_to_prompts_in_order(pending, spare):
    budget = pending.count(1) + spare
    tokens = split_budget(pending, budget)
    assert all(got == 1 for got, n in zip(tokens, pending, strict=True) if n == 1), "a decode was left out"
    left, expected = spare, []
    for n in pending:
        expected.append(n if n < 2 else min(n, left))
        left -= expected[-1] if n > 1 else 0
    assert tokens == expected and sum(tokens) <= budget


# --- several answers --------------------------------------------------------------------------------------------------------


def test_the_prompt_is_computed_once_and_each_answer_writes_to_its_own_copy():
    engine = started(request(0, 6, 3, n=3))
    first = engine.step()
    assert shown(first) == "0:6" and first.shares[0].draws == tuple(SequenceId(0, i) for i in range(3)) and not first.copies
    second = engine.step()
    assert shown(second) == "0:1 0b1 0c1" and len(second.copies) == 2, "the last of three owners writes in place"
    assert [share.draws for share in second.shares] == [((0, 0),), ((0, 1),), ((0, 2),)]
    assert len({share.blocks[0] for share in second.shares}) == 1 and len({share.blocks[1] for share in second.shares}) == 3
    assert engine.scheduler.snapshot()["sequences"] == 3


def test_the_last_answer_left_is_recomputed_in_one_go():
    scheduler = Scheduler(SchedulerConfig(**(ROOMY | {"num_blocks": 5, "policy": "orca"})))
    scheduler.add(request(0, 4, 9))
    scheduler.add(request(1, 4, 9, n=2))
    found, finished = [], {SequenceId(1, 1): "stop"}
    while scheduler.has_work:
        plan = scheduler.schedule()
        found.append(shown(plan))
        drawn = [id for share in plan.shares for id in share.draws]
        scheduler.update(plan, StepResult({id: [5] for id in drawn}, {id: why for id, why in finished.items() if id in drawn}))
    assert found == ["0:4 1:4", *["0:1 1:1"] * 4, *["0:1"] * 4, "1:9", "1:1", "1:1", "1:1"]


def test_answers_end_one_by_one():
    engine = started(request(0, 4, 30, n=4), stops=3)
    schedule(engine)
    lengths = {len(engine.gone[0, i]) for i in range(4)}
    assert len(lengths) > 1 and set(engine.outcome.values()) <= {"stop", "length"}


# --- cancelling, and the protocol -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["waiting", "running", "half-prefilled", "swapped", "sent back", "planned", "forked"])
def test_a_request_can_be_cancelled_wherever_it_is(when):
    tight = {"num_blocks": 5, "host_blocks": 5 if when == "swapped" else 0, "preemption": "swap", "policy": "orca"}
    config = tight if when in ("swapped", "sent back") else {"max_tokens_per_step": 6, "policy": "chunked"}
    n = 3 if when == "forked" else 1
    engine = started(request(0, 4, 9), request(1, 4, 9, n=n), **config)
    scheduler = engine.scheduler
    for _ in range({"waiting": 0, "half-prefilled": 1, "planned": 3, "running": 3, "forked": 4}.get(when, 6)):
        engine.step()
    group = scheduler.groups[1]
    state = {
        "waiting": lambda: len(scheduler.queue) == 2,
        "half-prefilled": lambda: group.live[0].table.length == 2,
        "swapped": lambda: group.swapped,
        "sent back": lambda: group in scheduler.preempted and not group.swapped,
        "forked": lambda: group.forked and scheduler.snapshot()["sequences"] == 4,
    }
    assert state.get(when, lambda: group in scheduler.running)(), "the test is not where it means to be"
    if when == "planned":
        engine.step(cancel_before=1)
    else:
        engine.cancel(1)
    used = scheduler.pool.num_blocks - scheduler.pool.num_free
    assert used == (len(scheduler.groups[0].live[0].table.blocks) if when != "waiting" else 0)
    assert scheduler.host is None or scheduler.host.num_free == scheduler.host.num_blocks
    assert not scheduler.cancel(1) and not scheduler.cancel(77)
    schedule(engine)
    assert scheduler.pool.num_free == scheduler.pool.num_blocks


def test_a_cancelled_id_may_come_again_while_the_old_plan_is_out():
    scheduler = Scheduler(SchedulerConfig(**ROOMY))
    scheduler.add(request(0))
    plan = scheduler.schedule()
    scheduler.cancel(0)
    scheduler.add(request(0))
    assert scheduler.update(plan, StepResult({SequenceId(0, 0): [5]})) == {}
    share = scheduler.schedule().shares[0]
    assert (share.position, share.tokens) == (0, request(0).prompt), "the new one has drawn nothing"


def test_every_plan_is_answered_before_the_next():
    scheduler = Scheduler(SchedulerConfig(**ROOMY))
    assert scheduler.schedule().shares == [] and scheduler.schedule().shares == [], "an empty plan needs no answer"
    scheduler.add(request(0, 4, 1))
    plan = scheduler.schedule()
    with pytest.raises(RuntimeError, match="update"):
        scheduler.schedule()
    with pytest.raises(RuntimeError, match="not the plan"):
        scheduler.update(Plan(shares=plan.shares), StepResult({SequenceId(0, 0): [5]}))
    assert scheduler.update(plan, StepResult({SequenceId(0, 0): [5]})) == {(0, 0): "length"}


def test_the_executor_may_end_a_sequence_before_its_length():
    scheduler = Scheduler(SchedulerConfig(**ROOMY))
    scheduler.add(request(0, 4, 3, n=2))
    first, second = SequenceId(0, 0), SequenceId(0, 1)
    assert scheduler.update(scheduler.schedule(), StepResult({first: [5], second: [6]}, {second: "stop"})) == {second: "stop"}
    plan = scheduler.schedule()
    assert [(share.sequence, share.tokens, share.position) for share in plan.shares] == [(first, [5], 4)] and not plan.copies


# --- what a step costs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "order"), list(product(POLICIES, ("fcfs", "priority", "fair"))))
def test_a_step_costs_what_runs_and_not_what_waits(policy, order):
    def step(scheduler):
        plan = scheduler.schedule()
        scheduler.update(plan, StepResult({id: [1] for share in plan.shares for id in share.draws}))

    def lines(waiting):
        scheduler = Scheduler(SchedulerConfig(**(ROOMY | {"policy": policy, "order": order})))
        for i in range(waiting):
            scheduler.add(request(i, 4, 9, user="ab"[i % 2], priority=i % 3))
        step(scheduler)
        return lines_run(lambda: step(scheduler), "scheduler")

    assert lines(2000) == lines(20)
