"""Who gives way when blocks run out, what is copied or computed again, and that nothing is taken twice."""

from itertools import product

import pytest
from scheduler_help import request, schedule, shown, started

from minillm.cache.block_pool import BlockPool
from minillm.cache.block_table import BlockTable
from minillm.scheduler.preemption import blocks_needed


def test_the_last_to_come_gives_way_and_is_the_first_to_swap_in():
    engine = started(*(request(i, 4, 9) for i in range(3)), request(3, 1, 1), num_blocks=6, policy="orca", max_sequences=3)
    found, back = [], []
    while engine.scheduler.has_work:
        plan = engine.step()
        found.append(shown(plan))
        back.append([id.request for id in plan.preempted])
    # 3 × 1 block after the prompts, 6 from the first decode on; at 9 tokens each needs a third: 2 leaves, 1 has to follow later
    assert found[:5] == ["0:4 1:4 2:4", *["0:1 1:1 2:1"] * 4]
    assert found[5] == "0:1 1:1" and back[5] == [2]
    assert [i for i, ids in enumerate(back) if ids] == [5], "6 blocks are enough for two"
    assert found[9] == "2:9 3:1", "request 2 comes back with its prompt and 5 tokens of its own, before 3 enters"


TIGHT = {"num_blocks": 6, "policy": "orca"}  # for 0: 2 blocks, 3 from the third step on; for 1: 2, and 4 once the answers part


def test_swapping_copies_each_block_once_out_and_once_back():
    engine = started(request(0, 7, 5), request(1, 5, 4, n=3), host_blocks=6, preemption="swap", **TIGHT)
    plans = []
    while engine.scheduler.has_work:
        plans.append(engine.step())
    parted, alone = "0:1 1:1 1b1 1c1", "0:1"
    assert [shown(plan) for plan in plans] == ["0:7 1:5", parted, alone, alone, alone, *["1:1 1b1 1c1"] * 2]
    assert [len(plan.preempted) for plan in plans] == [0, 0, 3, 0, 0, 0, 0], "all answers go together"
    assert [len(plan.swaps_out) for plan in plans] == [0, 0, 4, 0, 0, 0, 0], "1 common block and 3 of their own"
    assert [len(plan.swaps_in) for plan in plans] == [0, 0, 0, 0, 0, 4, 0]


def test_what_the_host_has_no_room_for_is_recomputed():
    engine = started(request(0, 4, 9), request(1, 4, 9), num_blocks=5, host_blocks=1, preemption="swap", policy="orca")
    plans = []
    while engine.scheduler.has_work:
        plans.append(engine.step())
    assert engine.preempted == 1 and not any(plan.swaps_out for plan in plans)
    assert engine.fed > 24


def test_after_recomputing_the_prompt_is_again_computed_once_for_all_answers():
    engine = started(request(0, 7, 5), request(1, 5, 4, n=3), **TIGHT)
    parted, alone = "0:1 1:1 1b1 1c1", "0:1"
    assert schedule(engine) == ["0:7 1:5", parted, alone, alone, alone, "1:5", "1:2 1b2 1c2", "1:1 1b1 1c1"]


@pytest.mark.parametrize("policy", ["static", "orca", "vllm"])
def test_what_comes_back_longer_than_a_step_is_cut_whatever_the_policy(policy):
    engine = started(request(0, 7, 20), request(1, 7, 20), num_blocks=9, max_tokens_per_step=14, policy=policy, max_sequences=2)
    schedule(engine)
    assert engine.preempted


@pytest.mark.parametrize(("prompt", "answers", "apart"), list(product(range(1, 9), range(1, 5), range(3))))
def test_growth_is_what_is_then_taken(prompt, answers, apart):
    """Answers of one prompt, of which some have gone their own way already, and some may take no part in this step."""
    for writers, n in product(range(1, answers + 1), (1, 2, 5)):
        pool = BlockPool(60, 4)
        tables = [BlockTable(pool)]
        tables[0].append(prompt)
        tables += [tables[0].fork() for _ in range(answers - 1)]
        for table in tables[:apart]:
            table.append(1)
        takes = [(table, n) for table in tables[-writers:]]
        free, need = pool.num_free, blocks_needed(takes)
        for table, n in takes:
            table.append(n)
        assert free - pool.num_free == need


def test_a_swapped_request_comes_back_within_the_budget():
    """0 takes 1's and 2's blocks; 2 is swapped, for 1 the host has no room; 1 then computes a long prompt when 2 comes back."""
    config = {"num_blocks": 6, "host_blocks": 2, "preemption": "swap", "max_sequences": 3, "max_tokens_per_step": 5}
    engine = started(request(0, 4, 20), request(1, 4, 12), request(2, 4, 12), **config)
    plans = []
    while engine.scheduler.has_work:
        plans.append(engine.step())
    assert [[id.request for id in plan.preempted] for plan in plans if plan.preempted][:2] == [[2], [1]]
    assert [bool(plan.swaps_out) for plan in plans if plan.preempted][:2] == [True, False]
    assert max(plan.tokens for plan in plans) == 5


@pytest.mark.parametrize(("num_blocks", "budget", "asked"), [(6, 2, request(1, 16, 3)), (4, 3, request(1, 9, 3, n=2))])
def test_half_a_prompt_is_recomputed_and_not_swapped(num_blocks, budget, asked):
    """8 of 16 tokens are computed when it must go, or 8 of 9: one to feed, but two answers wait for it."""
    config = {"host_blocks": 9, "preemption": "swap", "max_sequences": budget, "max_tokens_per_step": budget}
    engine = started(request(0, 4, 12), asked, num_blocks=num_blocks, **config)
    plans = []
    while engine.scheduler.has_work:
        plans.append(engine.step())
    assert {id.request for plan in plans for id in plan.preempted} == {1} and not any(plan.swaps_out for plan in plans)


def test_a_plan_stays_as_it_was_made():
    """In one step two prompts are computed that are the same: the cache then exchanges the second one's blocks."""
    engine = started(*(request(i, [7] * 6, 9, n=2) for i in range(2)), prefix="hash")
    schedule(engine)
