"""The scheduler by hand: schedules that can be worked out on paper, limits at their edges, and nobody who starves."""

import sys
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduler_help import loop, most_blocks, request

from minillm.cache.block_pool import BlockPool
from minillm.cache.block_table import BlockTable
from minillm.cache.prefix import HashPrefixCache
from minillm.errors import BlockError, RequestError
from minillm.serving.limits import ORDERS, POLICIES, PREEMPTIONS, PREFIXES, SchedulerConfig, blocks_at_most
from minillm.serving.plan import Plan, Result, SequenceId
from minillm.serving.preemption import growth
from minillm.serving.request import Group
from minillm.serving.scheduler import Request, Scheduler
from minillm.serving.step import divide, open_table

ROOMY = {"num_blocks": 100, "block_size": 4, "max_sequences": 4, "max_tokens_per_step": 64}


def shown(plan):
    """A plan in a few letters: request:tokens of each share, answers after the first marked by a letter."""
    return " ".join(f"{s.sequence.request}{'_bcdef'[s.sequence.index]}{len(s.tokens)}".replace("_", ":") for s in plan.shares)


def schedule(engine, steps=200):
    """Run to the end; what each step computed."""
    found = []
    while engine.scheduler.has_work:
        found.append(shown(engine.step()))
        assert len(found) <= steps, found
    return found


def started(*requests, **config):
    engine = loop(**(ROOMY | config))
    for r in requests:
        engine.add(r)
    return engine


# --- policies -------------------------------------------------------------------------------------------------------------

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


def test_a_whole_prompt_waits_for_a_step_that_can_take_it_and_nobody_slips_past():
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


@given(st.lists(st.sampled_from([0, 1, 1, 2, 3, 9, 40]), max_size=8), st.integers(0, 30))
def test_the_budget_goes_to_decodes_first_then_to_prompts_in_order(pending, spare):
    budget = pending.count(1) + spare
    tokens = divide(pending, budget)
    assert all(got == 1 for got, n in zip(tokens, pending, strict=True) if n == 1), "a decode was left out"
    left, expected = spare, []
    for n in pending:
        expected.append(n if n < 2 else min(n, left))
        left -= expected[-1] if n > 1 else 0
    assert tokens == expected and sum(tokens) <= budget


# --- who enters -----------------------------------------------------------------------------------------------------------


def entered(engine, count=None):
    """Requests in the order in which they enter."""
    order = []
    while engine.scheduler.has_work and len(order) < (count or 10**9):
        before = {g.request.id for g in engine.scheduler.running}
        plan = engine.step()
        order += [s.sequence.request for s in plan.shares if s.sequence.request not in before and s.position == 0]
    return order


def test_priority_before_arrival():
    priorities = [2, 1, 0, 1, 0]
    engine = started(*(request(i, priority=p) for i, p in enumerate(priorities)), order="priority", max_sequences=1)
    assert entered(engine) == [2, 4, 1, 3, 0]


def test_the_user_served_least_comes_first_counted_in_tokens():
    long = [request(i, 10, 10, user="a") for i in range(3)]
    short = [request(i, 2, 3, user="b") for i in range(3, 9)]
    engine = started(*long, *short, order="fair", max_sequences=1)
    # a: 20 each; b: 5 each. 0 (a 20), then b until it has more than 20: 3 4 5 6 at 20 is a tie, which a's line, begun first, wins
    assert entered(engine) == [0, 3, 4, 5, 6, 1, 7, 8, 2]


def test_two_users_share_evenly_whatever_they_ask_for():
    engine = started(order="fair", max_sequences=2, patience=10**6)
    for i in range(300):
        engine.add(request(i, *((12, 20) if i % 10 == 0 else (3, 2)), user="modest" if i % 10 else "greedy"))
    served = Counter()
    for _ in range(120):
        for share in engine.step().shares:
            request_ = engine.requests[share.sequence.request]
            served[request_.user] += len(share.tokens)
    assert engine.scheduler.queue.lines.keys() == {"greedy", "modest"}, "both still wait"
    assert abs(served["greedy"] - served["modest"]) <= 2 * 32, "no more apart than two of the larger requests"


def test_who_was_away_has_not_saved_up():
    engine = started(*(request(i, 8, 8, user="a") for i in range(9)), order="fair", max_sequences=1)
    entered(engine, 5)
    for i in range(20, 29):
        engine.add(request(i, 8, 8, user="new"))
    assert entered(engine, 4) in ([20, 5, 21, 6], [5, 20, 6, 21], [20, 21, 5, 22], [20, 5, 6, 21])


def test_a_user_is_not_charged_for_being_preempted():
    engine = started(request(0, 4, 12, user="a"), request(1, 4, 12, user="b"), order="fair", num_blocks=5, policy="orca")
    schedule(engine)
    assert engine.preempted
    assert engine.scheduler.queue.served == {"a": 16, "b": 16}


@pytest.mark.parametrize("prefix", ["hash", "radix"])
def test_the_longest_cached_prefix_comes_first(prefix):
    engine = started(request(0, [7] * 12, 1), prefix=prefix, order="cache", max_sequences=1)
    schedule(engine)
    prompts = [[1] * 12, [7] * 4 + [1] * 8, [7] * 8 + [2] * 4, [7] * 5 + [3] * 7]
    for i, prompt in enumerate(prompts, 1):
        engine.add(Request(i, prompt, 1))
    found = []
    while engine.scheduler.has_work:
        share = engine.step().shares[0]
        found.append((share.sequence.request, share.position, engine.scheduler.cached_tokens(share.sequence.request)))
    assert found == [(3, 8, 8), (2, 4, 4), (4, 4, 4), (1, 0, 0)]
    engine.scheduler.schedule()
    assert engine.scheduler.cached_tokens(1) == engine.scheduler.cached_tokens(99) == 0


@pytest.mark.parametrize("patience", [0, 1, 5])
@pytest.mark.parametrize("order", ["priority", "fair", "cache"])
def test_the_one_who_waits_longest_is_passed_so_often_and_no_oftener(order, patience):
    engine = started(order=order, prefix="hash", max_sequences=1, patience=patience)
    engine.add(request(0, [7] * 8, 1))
    engine.add(request(1, [7] * 8, 1, priority=-1))
    engine.step()
    engine.step()
    if order == "fair":
        engine.scheduler.queue.charge("slow", 1000)
    engine.add(request(2, [1] * 8, 1, priority=5, user="slow"))
    for i in range(3, 13):
        engine.add(request(i, [7] * 8, 1, user=f"user {i}"))
    order_found = [engine.step().shares[0].sequence.request for _ in range(11)]
    assert order_found == [*range(3, 3 + patience), 2, *range(3 + patience, 13)]


def a_group(prompt, n=1, **more):
    return Group(Request(0, prompt, 4, n, **more))


def test_a_request_enters_if_its_blocks_leave_the_watermark_free():
    pool = BlockPool(10, 4, watermark=2)
    for tokens, alone, fits in [(32, False, True), (33, False, False), (33, True, True), (40, True, True)]:
        table = open_table(a_group([1] * tokens), pool, None, 1, alone)
        assert (table is not None) == fits, f"{tokens} tokens, 10 blocks of 4, 2 to stay free, alone: {alone}"
    taken = [pool.allocate() for _ in range(5)]
    assert open_table(a_group([1] * 12), pool, None, 1, False) is not None
    assert open_table(a_group([1] * 13), pool, None, 1, False) is None
    assert open_table(a_group([1] * 21), pool, None, 1, True) is None, "alone or not, what is taken is taken"
    assert pool.num_free == 10 - len(taken), "a request that enters takes only what is cached; one that waits, nothing"


def test_a_request_enters_if_there_is_a_seat_for_each_answer():
    pool = BlockPool(10, 4)
    assert [open_table(a_group([1], n=3), pool, None, seats, True) is not None for seats in (0, 2, 3, 4)] == [
        False,
        False,
        True,
        True,
    ]


def test_what_is_cached_counts_and_is_given_back_if_the_request_must_wait():
    pool = BlockPool(6, 4)
    cache = HashPrefixCache(pool)
    table = BlockTable(pool)
    table.append(12)
    cache.commit([5] * 12, table.blocks, "salt")
    first = list(table.blocks)
    others = BlockTable(pool)
    others.append(8)  # 3 blocks hold [5] * 12, 2 others are taken, 1 is free
    found = open_table(a_group([5] * 16, salt="salt"), pool, cache, 1, False)
    assert found.blocks == first and found.length == 12
    found.free()
    assert open_table(a_group([5] * 16), pool, cache, 1, False) is None, "another salt finds nothing"
    assert open_table(a_group([5] * 21, salt="salt"), pool, cache, 1, False) is None, "three more blocks are not there"
    assert [pool.refs[block] for block in first] == [1, 1, 1]
    table.free()  # now idle: free, and no longer so once they are matched
    assert open_table(a_group([5] * 16, salt="salt"), pool, cache, 1, False).blocks == first
    assert pool.num_free == 1
    with pytest.raises(BlockError):
        pool.free(others.blocks[0]), pool.free(others.blocks[0])


# --- preemption -----------------------------------------------------------------------------------------------------------


def test_the_last_to_come_gives_way_and_is_the_first_to_come_back():
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


@given(
    st.integers(1, 9), st.integers(1, 4), st.integers(0, 3), st.lists(st.integers(1, 6), min_size=4, max_size=4), st.booleans()
)
def test_growth_is_what_is_then_taken(prompt, answers, after, tokens, kept):
    pool = BlockPool(60, 4)
    tables = [BlockTable(pool)]
    tables[0].append(prompt)
    tables += [tables[0].fork() for _ in range(answers - 1)]
    for table in tables[:after]:
        table.append(1)
    takes = list(zip(tables, tokens, strict=False))[: answers - kept]
    free, need = pool.num_free, growth(takes)
    for table, n in takes:
        table.append(n)
    assert free - pool.num_free == need


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


def test_answers_end_one_by_one():
    engine = started(request(0, 4, 30, n=4), stops=3)
    schedule(engine)
    lengths = {len(engine.gone[0, i]) for i in range(4)}
    assert len(lengths) > 1 and set(engine.outcome.values()) <= {"stop", "length"}


# --- limits -----------------------------------------------------------------------------------------------------------------

LIMITS = {"num_blocks": 10, "block_size": 4, "max_sequences": 4, "max_tokens_per_step": 16, "context_length": 36}
REFUSED = [
    ({"prompt": []}, {}, "at least 1 token.* found 0"),
    ({"max_tokens": 0}, {}, "max_tokens must be at least 1, found 0"),
    ({"n": 0}, {}, "n must be at least 1, found 0"),
    ({"n": 5}, {}, "n = 5 answers.* 4 sequences"),
    ({"prompt": [1] * 30, "max_tokens": 7}, {}, "30 \\+ 7 = 37 tokens.* holds 36"),
    ({"prompt": [1] * 17}, {"policy": "orca"}, "prompt has 17 tokens, a step takes 16.*'orca'"),
    ({"prompt": [1] * 17}, {"policy": "vllm"}, "prompt has 17 tokens, a step takes 16"),
    ({"prompt": [1] * 17}, {"policy": "static"}, "prompt has 17 tokens, a step takes 16"),
    ({"prompt": [1] * 30, "max_tokens": 12}, {"context_length": None}, "up to 11 blocks of 4 tokens, the pool has 10"),
    ({"prompt": [1] * 9, "max_tokens": 8, "n": 4}, {}, "up to 10 blocks of 4 tokens, the pool has 9", 9),
]


@pytest.mark.parametrize("case", REFUSED, ids=[case[2] for case in REFUSED])
def test_what_can_never_fit_is_refused_with_both_numbers(case):
    fields, config, message, *blocks = case
    scheduler = Scheduler(SchedulerConfig(**(LIMITS | config | ({"num_blocks": blocks[0]} if blocks else {}))))
    with pytest.raises(RequestError, match=message):
        scheduler.add(Request(**({"id": 1, "prompt": [1, 2], "max_tokens": 3} | fields)))
    assert not scheduler.has_work and not scheduler.sequences


def test_an_id_is_taken_once():
    engine = started(request(0))
    with pytest.raises(RequestError, match="request 0"):
        engine.scheduler.add(request(0))
    schedule(engine)
    engine.scheduler.add(request(0))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"policy": "best"}, "static, orca, vllm, chunked; found 'best'"),
        ({"order": "lifo"}, "found 'lifo'"),
        ({"preemption": "no"}, "found 'no'"),
        ({"prefix": "tree"}, "None, hash, radix; found 'tree'"),
        ({"max_sequences": 0}, "at least 1, found 0"),
        ({"host_blocks": -1}, "at least 0, found -1"),
        ({"patience": -1}, "at least 0, found -1"),
        ({"max_tokens_per_step": 3}, "max_sequences = 4.*found 3"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(wrong, message):
    with pytest.raises(RequestError, match=message):
        SchedulerConfig(**(LIMITS | wrong))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 13),
    st.integers(1, 9),
    st.integers(1, 4),
    st.sampled_from([1, 2, 4]),
    st.sampled_from(POLICIES),
    st.sampled_from(PREFIXES),
    st.integers(0, 3),
)
def test_a_request_that_fills_the_pool_to_the_last_block_runs_to_its_end(prompt, max_tokens, n, size, policy, prefix, watermark):
    asked = request(0, prompt, max_tokens, n=n)
    blocks = most_blocks(asked, size)
    assert blocks_at_most(asked, size) == blocks
    config = {"block_size": size, "policy": policy, "prefix": prefix, "max_sequences": 4, "max_tokens_per_step": 16}
    engine = started(asked, num_blocks=blocks, watermark=min(watermark, blocks - 1), **config)
    peak = 0
    while engine.scheduler.has_work:
        plan = engine.step()
        peak = max(peak, len({block for share in plan.shares for block in share.blocks}))
    assert engine.preempted == 0 and engine.fed == prompt + n * (max_tokens - 1)
    assert peak <= blocks and (prefix or peak == blocks)
    if blocks > 1:
        with pytest.raises(RequestError):
            Scheduler(replace(engine.scheduler.config, num_blocks=blocks - 1, watermark=0)).add(asked)


# --- cancelling, and the protocol -----------------------------------------------------------------------------------------


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
    assert scheduler.update(plan, Result({SequenceId(0, 0): 5})) == {}
    assert scheduler.schedule().shares[0].position == 0


def test_every_plan_is_answered_before_the_next():
    scheduler = Scheduler(SchedulerConfig(**ROOMY))
    assert scheduler.schedule().shares == [] and scheduler.schedule().shares == [], "an empty plan needs no answer"
    scheduler.add(request(0, 4, 1))
    plan = scheduler.schedule()
    with pytest.raises(RuntimeError, match="update"):
        scheduler.schedule()
    with pytest.raises(RuntimeError, match="not the plan"):
        scheduler.update(Plan(shares=plan.shares), Result({SequenceId(0, 0): 5}))
    assert scheduler.update(plan, Result({SequenceId(0, 0): 5})) == {(0, 0): "length"}


def test_the_executor_may_end_a_sequence_before_its_length():
    scheduler = Scheduler(SchedulerConfig(**ROOMY))
    scheduler.add(request(0, 4, 3, n=2))
    first, second = SequenceId(0, 0), SequenceId(0, 1)
    assert scheduler.update(scheduler.schedule(), Result({first: 5, second: 6}, {second: "stop"})) == {second: "stop"}
    plan = scheduler.schedule()
    assert [(share.sequence, share.tokens, share.position) for share in plan.shares] == [(first, [5], 4)] and not plan.copies


# --- nobody starves -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [1, 4])
@pytest.mark.parametrize(("policy", "order", "preemption"), list(product(POLICIES, ORDERS, PREEMPTIONS)))
def test_a_long_request_against_an_endless_stream_of_favoured_short_ones(policy, order, preemption, answer):
    """Every step brings four new requests that the order prefers; the long one still ends, in steps that can be counted.

    Before it enters, at most 3 pass it, besides the 2 who came before. Each of these 5 has at most 4 tokens to draw, and
    after at most `patience` steps of prompts a step decodes; then it draws its own 20 at that pace.
    """
    config = {"num_blocks": 12, "host_blocks": 8, "max_sequences": 3, "max_tokens_per_step": 24, "patience": 3, "prefix": "hash"}
    engine = loop(policy=policy, order=order, preemption=preemption, block_size=4, **config)
    for i in (1, 2):
        engine.add(request(i, [7] * 5, answer, user=f"user {i}"))
    engine.add(request(0, [1] * 20, 20, priority=9, user="patient"))
    engine.scheduler.queue.charge("patient", 10_000)
    for step in range(3, 4 * (5 * 4 + 20) + 10):
        for i in range(4 * step, 4 * step + 4):
            engine.add(request(i, [7] * 5, answer, user=f"user {i}"))
        engine.step()
        if (0, 0) in engine.outcome:
            break
    assert engine.outcome.get((0, 0)) == "length", "it starves"
    assert len(engine.scheduler.queue) > 5, "the stream was not endless"


def test_the_most_senior_is_never_preempted_though_all_compete_for_blocks():
    engine = started(*(request(i, 3, 17) for i in range(8)), num_blocks=9, max_sequences=8, policy="orca")
    while engine.scheduler.has_work:
        senior = min(engine.tokens).request
        assert senior not in {id.request for id in engine.step().preempted}
    assert list(dict.fromkeys(id.request for id in engine.outcome)) == list(range(8)), "they end in the order in which they came"


# --- what a step costs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "order"), list(product(POLICIES, ("fcfs", "priority", "fair"))))
def test_a_step_costs_what_runs_and_not_what_waits(policy, order):
    def lines(waiting):
        scheduler = Scheduler(SchedulerConfig(**(ROOMY | {"policy": policy, "order": order})))
        for i in range(waiting):
            scheduler.add(request(i, 4, 9, user="ab"[i % 2], priority=i % 3))
        plans = [scheduler.schedule()]
        scheduler.update(plans[0], Result({id: 1 for share in plans[0].shares for id in share.draws}))
        count, old = 0, sys.gettrace()

        def trace(frame, event, argument):
            nonlocal count
            if Path(frame.f_code.co_filename).parent.name != "serving":
                return None
            count += event == "line"
            return trace

        sys.settrace(trace)
        try:
            plan = scheduler.schedule()
            scheduler.update(plan, Result({id: 1 for share in plan.shares for id in share.draws}))
        finally:
            sys.settrace(old)
        return count

    assert lines(2000) == lines(20)
