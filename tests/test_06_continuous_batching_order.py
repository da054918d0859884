"""Which request is admitted next, in each order; and that none starves."""

from collections import Counter
from itertools import product

import pytest
from scheduler_help import loop, request, schedule, started

from minillm.cache.block_pool import BlockPool
from minillm.cache.block_table import BlockTable
from minillm.cache.prefix import HashPrefixCache
from minillm.errors import BlockError
from minillm.scheduler.config import ORDERS, POLICIES, PREEMPTIONS
from minillm.scheduler.request import SequenceGroup
from minillm.scheduler.scheduler import Request
from minillm.scheduler.step import allocate_table

# --- who enters -------------------------------------------------------------------------------------------------------------


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


def test_an_id_that_comes_again_has_a_new_place():
    engine = started(request(0, priority=0), request(1, priority=1), order="priority", max_sequences=1)
    engine.scheduler.cancel(0)
    engine.scheduler.add(request(0, priority=2))
    assert entered(engine) == [1, 0]


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
    assert engine.scheduler.queue.queues.keys() == {"greedy", "modest"}, "both still wait"
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
    assert engine.scheduler.cached_tokens(3) == engine.scheduler.cached_tokens(99) == 0 and not engine.scheduler.ended


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
    return SequenceGroup(Request(0, prompt, 4, n, **more))


def test_a_request_enters_if_its_blocks_leave_the_watermark_free():
    pool = BlockPool(10, 4, watermark=2)
    for tokens, alone, fits in [(32, False, True), (33, False, False), (33, True, True), (40, True, True)]:
        table = allocate_table(a_group([1] * tokens), pool, None, 1, alone)
        assert (table is not None) == fits, f"{tokens} tokens, 10 blocks of 4, 2 to stay free, alone: {alone}"
    taken = [pool.allocate() for _ in range(5)]
    assert allocate_table(a_group([1] * 12), pool, None, 1, False) is not None
    assert allocate_table(a_group([1] * 13), pool, None, 1, False) is None
    assert allocate_table(a_group([1] * 21), pool, None, 1, True) is None, "alone or not, what is taken is taken"
    assert pool.num_free == 10 - len(taken), "a request that enters takes only what is cached; one that waits, nothing"


def test_a_request_enters_if_there_is_a_seat_for_each_answer():
    pool = BlockPool(10, 4)
    assert [allocate_table(a_group([1], n=3), pool, None, seats, True) is not None for seats in (0, 2, 3, 4)] == [
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
    found = allocate_table(a_group([5] * 16, salt="salt"), pool, cache, 1, False)
    assert found.blocks == first and found.length == 12
    found.free()
    assert allocate_table(a_group([5] * 16), pool, cache, 1, False) is None, "another salt finds nothing"
    assert allocate_table(a_group([5] * 21, salt="salt"), pool, cache, 1, False) is None, "three more blocks are not there"
    assert [pool.refs[block] for block in first] == [1, 1, 1]
    table.free()  # now idle: free, and no longer so once they are matched
    assert allocate_table(a_group([5] * 16, salt="salt"), pool, cache, 1, False).blocks == first
    assert pool.num_free == 1
    with pytest.raises(BlockError):
        pool.free(others.blocks[0]), pool.free(others.blocks[0])


# --- no starvation ----------------------------------------------------------------------------------------------------------


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
