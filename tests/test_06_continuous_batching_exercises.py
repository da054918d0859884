"""Exercises of lesson 06: who enters, who goes on and who gives way, how a step is divided, who is next. Then what is one's own.

06.4, metrics from an event log, is in test_06_continuous_batching_metrics.py; 06.6, a chunk's size, in …_chunk.py.
"""

from collections import Counter

import mistakes_serving
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scheduler_help import attempt, request, schedule, started

from minillm.cache.block_pool import BlockPool
from minillm.cache.block_table import BlockTable
from minillm.cache.prefix import HashPrefixCache
from minillm.course.checks import check_close, exercise
from minillm.engine.answer import Answer, sampling_state
from minillm.model.sampling import SamplingParams
from minillm.scheduler.queues import FairQueue
from minillm.scheduler.request import Request, SequenceGroup
from minillm.scheduler.scheduler import Scheduler, SchedulerConfig
from minillm.scheduler.step import PlanBuilder, allocate_table, split_budget

SIZE = 4  # tokens of a block


def group(prompt=4, n=1, id=0, drawn=0, **more):
    """A request in the scheduler: its prompt (a list, or so many tokens), and answers of so many tokens so far."""
    tokens = [id + 10] * prompt if isinstance(prompt, int) else prompt
    made = SequenceGroup(Request(id, tokens, 99, n, **more))
    for sequence in made.live:
        sequence.tokens += [50 + sequence.id.index] * drawn
    return made


# --- 06.1: admit by free blocks -------------------------------------------------------------------------------------------


def check_entry(entering, pool, cache, fits, story, seats=1, alone=False):
    """Ask whether a group enters; look at the pool before and after. -> the table"""
    free, refs = pool.num_free, list(pool.refs)
    table = attempt(story, lambda: allocate_table(entering, pool, cache, seats, alone))
    says = "it should enter, and None was returned" if fits else "it must wait, and was let in"
    assert (table is not None) == fits, f"{story}: {says}"
    if table is None:
        held = [block for block, n in enumerate(pool.refs) if n > refs[block]]
        assert not held, f"{story}: it must wait, and still owns blocks {held}: a match is to be released, or they are lost"
        assert pool.num_free == free, f"{story}: it must wait, {free} blocks were free and {pool.num_free} are now"
    return table


@exercise("06.1", points=2, hint=(
    "Why must a newcomer leave some blocks free, and when need it not?",
    "pool.can_allocate(n) knows the watermark. Alone, no other sequence needs to grow: all pool.num_free are its own to take.",
    "It enters if pool.can_allocate(need) or (alone and need <= pool.num_free): return BlockTable(pool, found), else None.",
))  # fmt: skip
@given(tokens=st.integers(1, 44), taken=st.integers(0, 9), watermark=st.integers(0, 3), alone=st.booleans())
def test_who_enters_leaves_the_watermark_free_unless_it_would_be_alone(tokens, taken, watermark, alone):
    need, free = -(-tokens // SIZE), 10 - taken
    fits = need <= (free if alone else free - watermark)
    pool = BlockPool(10, SIZE, watermark)
    for _ in range(taken):
        pool.allocate()
    stays = "it would be alone" if alone else f"{watermark} are to stay free"
    story = f"{tokens} tokens need {need} blocks of {SIZE}, {free} are free, {stays}"
    table = check_entry(group(tokens), pool, None, fits, story, alone=alone)
    assert not fits or (table.length, pool.num_free) == (0, free), f"{story}: nothing is computed yet, so it takes no block yet"


@exercise("06.1", points=1, hint="One seat for each answer that has not ended: group.live.")
@given(n=st.integers(1, 4), seats=st.integers(0, 5))
def test_who_enters_has_a_seat_for_each_answer(n, seats):
    story = f"{n} answers and {seats} free seats"
    check_entry(group(4, n), BlockPool(30, SIZE), None, n <= seats, story, seats)
    ended = group(4, n + 1)
    del ended.live[0]  # an answer that has ended needs no seat
    one_ended = f"{n + 1} answers, one of which has ended, and {seats} free seats"
    check_entry(ended, BlockPool(30, SIZE), None, n <= seats, one_ended, seats)
    pool = BlockPool(30, SIZE)
    cache, owner = HashPrefixCache(pool), BlockTable(pool)
    owner.append(8)
    cache.commit([5] * 8, owner.blocks)
    check_entry(group([5] * 8, n), pool, cache, n <= seats, f"{story}, and a block of the prompt cached", seats)


@exercise("06.1", points=2, hint=(
    "What is found need not be allocated: group.blocks(...) less len(found).",
    "Idle blocks that you match are no longer free: match first, then ask the pool.",
))  # fmt: skip
@given(asked=st.integers(1, 28), in_use=st.booleans(), taken=st.integers(0, 5), watermark=st.integers(0, 2), known=st.booleans())
def test_what_is_cached_counts_once(asked, in_use, taken, watermark, known):
    hits = min(12, asked - 1) // SIZE if known else 0
    free = 8 - taken - (3 if in_use else 0)
    assume(free >= 0)
    left = free - (0 if in_use else hits)  # idle blocks that are matched were free, and are so no more
    need = -(-asked // SIZE) - hits
    fits = need <= left - watermark
    pool = BlockPool(8, SIZE, watermark)
    cache, owner = HashPrefixCache(pool), BlockTable(pool)
    owner.append(12)
    cache.commit([5] * 12, owner.blocks, "salt")
    first = list(owner.blocks)
    for _ in range(taken):
        pool.allocate()
    if not in_use:
        owner.free()
    where = "in use by another" if in_use else "idle: free until they are matched"
    story = (
        f"{asked} tokens, {hits} blocks of them cached ({where}): {need} more are needed, "
        f"{left} are free beside them, {watermark} are to stay free"
    )
    table = check_entry(group([5] * asked, salt="salt" if known else "pepper"), pool, cache, fits, story)
    if table is not None:
        right = first[:hits]
        assert table.blocks == right, f"{story}: its table must begin with the cached blocks {right}, found {table.blocks}"


@exercise("06.1", points=1, hint=(
    "After a preemption there is more to hold than the prompt: group.blocks counts all tokens of all answers.",
    "The lead computes the prompt alone: match its tokens up to lead.target.",
))  # fmt: skip
def test_who_comes_back_needs_room_for_all_its_answers_and_begins_with_the_prompt():
    # a prompt of 8 tokens: 2 blocks for all; 6 drawn: 2 more for each of 3 answers
    for blocks, fits in ((7, False), (8, True)):
        story = f"3 answers of 6 tokens to a prompt of 8 need 2 + 3 · 2 blocks of {SIZE}, {blocks} are free"
        check_entry(group(8, 3, drawn=6), BlockPool(blocks, SIZE), None, fits, story, 3)
    pool = BlockPool(20, SIZE)
    cache, owner, back = HashPrefixCache(pool), BlockTable(pool), group(8, 2, drawn=6)
    owner.append(12)
    cache.commit(back.live[0].tokens[:12], owner.blocks)
    table = check_entry(back, pool, cache, True, "a request that comes back to an empty pool", 2)
    assert table.length < 8, (
        f"8 tokens are common to both answers and at least one of them must be computed; found {table.length} cached: "
        "tokens that the lead drew belong to it alone, match up to lead.target"
    )
    pool = BlockPool(20, SIZE)
    cache, owner, back = HashPrefixCache(pool), BlockTable(pool), group(8, 1, drawn=6)
    owner.append(12)
    cache.commit(back.live[0].tokens[:12], owner.blocks)
    table = check_entry(back, pool, cache, True, "an answer of its own that comes back to an empty pool")
    assert table.length == 12, f"a prompt of 8 and 4 drawn tokens of its one answer are cached: 12 are found, not {table.length}"


@exercise("06.1", points=1, hint="pool.release frees the last block first: what is freed first is evicted first.")
def test_a_match_that_is_given_back_is_evicted_from_its_end():
    pool = BlockPool(3, SIZE)
    cache, owner = HashPrefixCache(pool), BlockTable(pool)
    owner.append(12)
    cache.commit([5] * 12, owner.blocks)
    blocks = list(owner.blocks)
    owner.free()
    check_entry(group([5] * 16), pool, cache, False, "16 tokens need 4 blocks of 4, of which 3 are cached and no other is free")
    oldest = list(pool.idle)
    assert oldest == blocks[::-1], (
        f"blocks {blocks} of a prompt were matched and given back: its end must be evicted first, without its beginning the rest "
        f"cannot be found. In order of eviction they are {oldest}, expected {blocks[::-1]}"
    )


# --- 06.2: the decode loop, with preemption ---------------------------------------------------------------------------------


def crowd(shapes, spare, host=0, watermark=0):  # [(tokens computed, answers)], free blocks -> Scheduler
    """A scheduler in the middle of its work: requests of one or two answers that decode, the most senior first."""
    held = [-(-tokens // SIZE) for tokens, _ in shapes]
    config = SchedulerConfig(
        sum(held) + spare, SIZE, host, 32, watermark=watermark, preemption="swap" if host else "recompute", max_tokens_per_step=64
    )
    scheduler = Scheduler(config)
    for id, (tokens, answers) in enumerate(shapes):
        member = group(tokens, answers, id, drawn=1)
        lead = member.live[0]
        lead.table = BlockTable(scheduler.pool)
        lead.table.append(tokens)
        if answers > 1:
            member.fork()
        scheduler.groups[id] = member
        scheduler.running.append(member)
    return scheduler


def growth_of(tokens, answers):
    """Blocks that a token for each answer takes: a new one each after a full block; else all copy the last but one of them."""
    return answers if tokens % SIZE == 0 else answers - 1


def who_stays(shapes, spare):  # -> how many of the most senior
    """The longest line of seniors who fit into the pool with what they grow by."""
    blocks, needed = sum(-(-tokens // SIZE) for tokens, _ in shapes) + spare, 0
    for count, (tokens, answers) in enumerate(shapes):
        needed += -(-tokens // SIZE) + growth_of(tokens, answers)
        if needed > blocks:
            return count
    return len(shapes)


def run_step(scheduler):
    step, pool = PlanBuilder(scheduler), scheduler.pool
    attempt("in a step in which blocks run out (who has left has no table any more: it is None)", step.schedule_running)
    for member in scheduler.preempted:
        tables = [s.table for s in member.live if s.table is not None and s.table.pool is pool]
        held = sorted({block for table in tables for block in table.blocks})
        assert not held, f"request {member.request.id} was sent back to wait and still owns blocks {held}: they are lost to all"
    return step.plan


shapes_of = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 2)), min_size=1, max_size=6)


@exercise("06.2", points=4, hint=(
    "The most senior must never stop. Who gives it blocks when none is free, and what if it is itself the last?",
    "Take blocks from the last of scheduler.running, one group after the other, until blocks_needed(...) fits pool.num_free.",
    "while it does not fit: pop, preempt, appendleft; break if that was the group, else todo.pop(). The loop's else plans.",
))  # fmt: skip
@given(shapes=shapes_of, spare=st.integers(0, 3))
@example(shapes=[(8, 2), (1, 1), (1, 1)], spare=0)  # the first needs two blocks, and two must leave to give them
def test_the_most_senior_go_on_and_the_last_give_way(shapes, spare):
    stay = who_stays(shapes, spare)
    scheduler = crowd(shapes, spare)
    plan = run_step(scheduler)
    story = f"requests of (tokens, answers) {shapes}, {spare} blocks of {SIZE} free"
    ids = [member.request.id for member in scheduler.running]
    assert ids == list(range(stay)), f"{story}: 0 is the most senior, so {list(range(stay))} must still run, found {ids}"
    served = [tuple(share.sequence) for share in plan.shares]
    right = [(id, i) for id in range(stay) for i in range(shapes[id][1])]
    gone = [id for id in served if id[0] >= stay]
    assert not gone, f"{story}: {gone} (request, answer) have lost their blocks in this step, and were planned all the same"
    assert served == right, f"{story}: who has its blocks computes one token: {right} (request, answer), found {served}"


@exercise("06.2", points=1, hint="A group preempted now is senior to all preempted before: it resumes first (appendleft).")
@given(shapes=shapes_of, spare=st.integers(0, 3))
def test_who_gives_way_comes_back_in_order_of_seniority(shapes, spare):
    stay = who_stays(shapes, spare)
    scheduler = crowd(shapes, spare)
    earlier = group(4, 1, 99)
    scheduler.preempted.append(earlier)
    run_step(scheduler)
    ids = [member.request.id for member in scheduler.preempted]
    right = [*range(stay, len(shapes)), 99]
    story = f"99 was sent back in an earlier step; of {len(shapes)} requests {stay} can stay"
    assert ids == right, f"{story}: the others come back in the order {right}, found {ids}"


@exercise("06.2", points=2, hint="preempt(group, host, plan) gives the blocks back and notes it in the plan; nothing else does.")
@given(shapes=shapes_of, spare=st.integers(0, 3))
def test_who_gives_way_gives_all_its_blocks_back(shapes, spare):
    stay = who_stays(shapes, spare)
    used = sum(-(-tokens // SIZE) + growth_of(tokens, answers) for tokens, answers in shapes[:stay])
    scheduler = crowd(shapes, spare)
    plan, pool = run_step(scheduler), scheduler.pool
    story = f"{stay} of {len(shapes)} requests go on and hold {used} of {pool.num_blocks} blocks"
    found = pool.num_blocks - pool.num_free
    assert found == used, f"{story}, found {found} in use: blocks of those who left are {'lost' if found > used else 'missing'}"
    lost = sorted(plan.preempted)
    right = [(id, i) for id in range(stay, len(shapes)) for i in range(shapes[id][1])]
    assert lost == right, f"{story}: the plan says that {right} (request, answer) lost their place, found {lost}"


@exercise("06.2", points=1, hint="The watermark is for admission (can_allocate): running groups may take the last block.")
def test_who_runs_may_take_the_blocks_that_newcomers_must_leave():
    scheduler = crowd([(4, 1), (2, 1)], spare=1, watermark=1)
    run_step(scheduler)
    ids = [member.request.id for member in scheduler.running]
    assert ids == [0, 1], f"request 0 needs a block, one is free, watermark 1: no request has to leave, found {ids} still running"


@exercise("06.2", points=1, hint="Where there is a host's pool, preempt swaps: give it scheduler.host.")
def test_with_a_host_blocks_are_swapped_and_not_forgotten():
    scheduler = crowd([(8, 1), (8, 1), (6, 2)], 0, host=8)  # 0 and 1 need a third block each, and 2 has two
    *stay, third = scheduler.running
    plan = run_step(scheduler)
    assert third.swapped, "request 2 gives way and the host has room: its blocks are to go there, they were forgotten"
    assert len(plan.swaps_out) == 2, f"2 blocks are to be copied to the host, found {plan.swaps_out}"
    assert scheduler.running == stay, f"0 and 1 go on, found {[member.request.id for member in scheduler.running]}"


@exercise("06.2", points=1, hint="Run it by hand for two requests and three blocks: who holds what after each step?")
def test_a_crowd_in_a_narrow_pool_is_served_to_the_end():
    engine = started(*(request(i, 3 + i, 7) for i in range(5)), num_blocks=7, block_size=2, max_sequences=5, watermark=0)
    steps = attempt("with five requests in a pool for two", lambda: schedule(engine))
    ended = {id.request for id in engine.outcome}
    assert ended == set(range(5)), f"requests 0 to 4 must end, only {sorted(ended)} did in {len(steps)} steps"
    assert engine.preempted, "seven blocks are too few for all: one must have been preempted"
    assert engine.scheduler.pool.num_free == 7, f"all have ended: 7 blocks must be free, found {engine.scheduler.pool.num_free}"


# --- 06.3: a budget of tokens ----------------------------------------------------------------------------------------------


def closed_form(pending, budget):  # -> (n,) tokens
    """Prompts lie end to end on a line that is as long as the rest of the budget; each gets what of it lies on the line."""
    decodes = np.array([n == 1 for n in pending], int)
    prompts = np.array(pending, int) * (1 - decodes)
    ends = np.minimum(np.cumsum(prompts), budget - decodes.sum())
    return np.diff(ends, prepend=0) + decodes


pendings = st.lists(st.integers(0, 12), min_size=1, max_size=7)
apart = st.lists(st.sampled_from([0, 1, *range(5, 13)]), min_size=1, max_size=7)  # mistakes look different from each other here


@exercise("06.3", points=2, hint=(
    "A long prompt stands in front of three streams. Who must not wait for it?",
    "Take the decodes off the budget before you look at any prompt; what a prompt takes is no longer left for the next.",
    "left = budget - sum(n == 1 for n in pending). In order: a decode gets 1, a prompt min(n, left), and left shrinks by that.",
))  # fmt: skip
@given(pending=apart, spare=st.sampled_from([*range(3, 20), 0]))
def test_decodes_first_then_prompts_in_order(pending, spare):
    budget = sum(n == 1 for n in pending) + spare
    right = closed_form(pending, budget)
    what = f"for {pending} pending tokens and a budget of {budget}"
    found = attempt(what, lambda: np.array(split_budget(list(pending), budget)))
    what = f"for {pending} pending tokens and a budget of {budget}, what each computes"
    ways = {"who has nothing pending gets a token: 0 takes no part": right + [n == 0 for n in pending]}
    check_close(found, right, what=what, mistakes=lambda: mistakes_serving.split_budget(pending, budget) | ways)


@exercise("06.3", points=1, hint="The budget is for decodes and prompts together: no more, and no less where it is wanted.")
@given(pending=pendings, spare=st.integers(0, 20))
def test_the_budget_is_never_exceeded_and_never_wasted(pending, spare):
    budget = sum(n == 1 for n in pending) + spare
    right, what = min(budget, sum(pending)), f"for {pending} pending tokens and a budget of {budget}"
    found = attempt(what, lambda: sum(split_budget(list(pending), budget)))
    assert found <= budget, f"{what}: {found} tokens are computed, {found - budget} too many"
    assert found == right, f"{what}: {right} tokens could be computed, only {found} are"


@exercise("06.3", points=2, hint="A prompt longer than any step is cut: it gets what is there, and goes on in the next.")
def test_a_long_prompt_beside_busy_streams_comes_to_its_end():
    left, steps = 100, []
    while left > 1 and len(steps) < 40:
        chunk = attempt("for a long prompt among streams", lambda left=left: split_budget([1, left, 1, 3, 1], 16)[1])
        steps.append(chunk)
        left -= chunk
    right = [13] * 7 + [9]
    assert steps == right, f"100 tokens beside 3 streams, 16 tokens a step: chunks {right}, found {steps}"


@exercise("06.3", points=1, hint="What is computed in a step beside the streams is what they wait for: at most the budget.")
def test_streams_wait_for_a_step_of_64_tokens_instead_of_343():
    left, sizes, what = [300, 40], [], "prompts of 300 and 40 tokens beside 3 streams, 64 tokens a step"
    while sum(left) and len(sizes) < 30:
        pending = [1, left[0], 1, left[1], 1]
        shares = attempt(what, lambda pending=pending: list(split_budget(pending, 64)))
        assert len(shares) == 5, f"{what}: a share for each of the five is expected, found {shares}"
        assert shares[::2] == [1, 1, 1], f"{what}: each stream draws a token in every step, step {len(sizes) + 1} gives {shares}"
        left = [n - share for n, share in zip(left, shares[1::2], strict=True)]
        sizes.append(sum(shares))
    assert max(sizes) <= 64, f"{what}: the longest step computes {max(sizes)} tokens; whole prompts would make it 343"
    assert len(sizes) == 6, f"{what}: 61 prompt tokens fit a step, so 340 take 6 steps; found {len(sizes)}, of {sizes} tokens"


# --- 06.5: fairness --------------------------------------------------------------------------------------------------------


def queue_of(users, served=None):  # [user of each request, in order of arrival], {user: tokens} -> FairQueue
    queue = FairQueue(patience=10**6)
    for id, user in enumerate(users):
        queue.push(group(id=id, user=user))
    queue.served.update(served or {})
    return queue


def ask(queue, story):
    try:
        found = attempt(story, queue.preferred)
    except pytest.fail.Exception as error:
        if (user := str(error).partition("KeyError: ")[2].strip("'")) in queue.served:
            pytest.fail(f"{story}: {user} has no request in line; choose among the users of `queues`")
        raise
    assert isinstance(found, SequenceGroup), f"{story}: a waiting group is expected, found {found!r}"
    return found.request.id


@exercise("06.5", points=1, hint=(
    "One user sends a hundred requests and another sends one. Who has got the least so far, and from where do you know?",
    "served[user] counts tokens: take the least among the users of `queues`. Its first request is next, and stays in line.",
    "user = min(self.queues, key=lambda user: self.served[user]); then level, and the first of self.queues[user].values().",
))  # fmt: skip
@given(users=st.lists(st.sampled_from("abcd"), min_size=1, max_size=9), tokens=st.permutations([3, 40, 500, 6000]))
def test_the_user_served_the_fewest_tokens_is_next(users, tokens):
    served = dict(zip("abcd", tokens, strict=True))
    poorest = sorted(set(users), key=served.get)[0]
    right = users.index(poorest)
    queue = queue_of(users, served)
    story = f"requests of {''.join(users)} in order of arrival, tokens served {served}"
    found = ask(queue, story)
    assert found == right, f"{story}: next is request {right}, the first of {poorest}; found {found} of {users[found]}"
    waiting = sum(map(len, queue.queues.values()))
    assert waiting == len(users), f"{story}: to be next is not to have entered, but now {waiting} are in line, not {len(users)}"


@exercise("06.5", points=1, hint="queues is in the order in which the users' queues began, and min takes the first of equals.")
@given(users=st.lists(st.sampled_from("abcd"), min_size=1, max_size=9))
def test_among_equals_the_line_that_began_first_is_next(users):
    right, queue = 0, queue_of(users, dict.fromkeys("abcd", 7))
    story = f"requests of {''.join(users)} in order of arrival, all users served 7 tokens"
    found = ask(queue, story)
    assert found == right, f"{story}: the line of {users[0]} began first, so request 0 is next; found {found}"
    queue.charge(users[0], 0)  # who was charged last is last in `served`, and no further back in line
    found = ask(queue, f"{story}, {users[0]} charged last")
    assert found == right, f"{story}: {users[0]} was charged last, and its line began first all the same; found {found}"


@exercise("06.5", points=1, hint="Not the first request of all: the queue that began first, whatever its head is now.")
def test_a_line_keeps_its_place_when_its_head_has_left():
    queue = queue_of("aba", {"a": 7, "b": 7})
    queue.remove(queue.waiting[0])
    found = ask(queue, "requests of aba, and the first was withdrawn")
    assert found == 2, f"a and b were served the same, and a's line began first: next is request 2, a's second, found {found}"


@exercise("06.5", points=1, hint="level is where newcomers begin: the count of the user who is chosen.")
def test_who_comes_later_begins_where_the_others_are():
    queue = queue_of("aab", {"a": 100, "b": 90, "gone": 5})
    ask(queue, "a was served 100 tokens, b 90; gone had 5 and does not wait")
    assert queue.level == 90, f"b was chosen at 90 tokens: newcomers begin there; the level is {queue.level}"
    queue.push(group(id=3, user="new"))
    begins = queue.served["new"]
    assert begins == 90, f"a newcomer begins at the level, 90: with {begins} it would have saved up while it was away"


@exercise("06.5", points=1, hint="Fewest tokens, not fewest requests: a user's long requests weigh more.")
@settings(max_examples=40)
@given(costs=st.lists(st.integers(1, 50), min_size=2, max_size=3), rounds=st.integers(5, 40))
def test_users_who_all_wait_are_never_further_apart_than_one_request(costs, rounds):
    queue, served, cost = queue_of([]), Counter(), dict(zip("abc", costs, strict=False))
    for i in range(rounds):
        for j, user in enumerate(cost):
            queue.push(group(id=10 * i + j, user=user))
    for _ in range(rounds):
        story = f"requests of {cost} tokens, served so far {dict(served)}"
        found = ask(queue, story)
        chosen = queue.waiting[found]
        user = chosen.request.user
        attempt(f"{story}: to be next is not to have entered; when it entered", lambda chosen=chosen: queue.pop(chosen))
        queue.charge(user, cost[user])
        served[user] += cost[user]
        apart = max(served[u] for u in cost) - min(served[u] for u in cost)
        assert apart <= max(costs), f"{story}, then {user}: {apart} tokens apart, the largest request has {max(costs)}"


# --- what is an answer's own -----------------------------------------------------------------------------------------

seeds_and = st.integers(0, 1000)


def state_of(seed, index, penalty=1.0, prompt=(2, 5), vocab=8):
    params = SamplingParams(seed=seed, repetition_penalty=penalty)
    return attempt(f"for seed {seed} and answer {index}", lambda: sampling_state(params, index, list(prompt), vocab))


@given(seed=seeds_and, index=st.integers(0, 5))
def test_seed_and_index_decide_the_numbers(seed, index):
    source = np.random.SeedSequence(seed, spawn_key=(index,)) if index else seed
    right = np.random.default_rng(source).random(4)
    rng, _ = state_of(seed, index)
    found = np.array([rng.random() for _ in range(4)])
    what = f"what answer {index} to seed {seed} draws"
    check_close(found, right, what=what, mistakes=lambda: mistakes_serving.numbers(seed, index))


@given(seed=seeds_and, turns=st.lists(st.integers(0, 1), min_size=2, max_size=8))
def test_answers_that_take_turns_draw_as_if_alone(seed, turns):
    for others, pair in (("two requests with the same seed", (0, 0)), ("two answers to one request", (0, 1))):
        keys = [np.random.SeedSequence(seed, spawn_key=(index,) if index else ()) for index in pair]
        right = [np.random.default_rng(key).random(8).tolist() for key in keys]
        rngs = [state_of(seed, index)[0] for index in pair]
        drawn = [[], []]
        for turn in turns:
            drawn[turn].append(rngs[turn].random())
            alone = right[turn][: len(drawn[turn])]
            assert drawn[turn] == alone, (
                f"{others} draw in the order {turns[: turns.index(turn) + 1]}…: number {len(drawn[turn])} of {'AB'[turn]} is "
                f"{drawn[turn][-1]:.4f}, alone it is {alone[-1]:.4f}. Has the other drawn from the same generator?"
            )


def test_without_a_seed_all_differ():
    numbers = [state_of(None, index)[0].random() for index in (0, 1, 0, 1)]
    assert len(set(numbers)) == 4, f"no seed was given: four answers must draw different numbers, found {numbers}"


@given(prompt=st.lists(st.integers(0, 7), min_size=1, max_size=6), said=st.integers(0, 7))
def test_tokens_that_occurred_are_each_answers_own(prompt, said):
    right = [token in prompt for token in range(8)]
    for index in range(2):
        used = state_of(3, index, 1.3, prompt)[1]
        assert isinstance(used, np.ndarray) and used.shape == (8,) and used.dtype == bool, (
            f"used must be an array of 8 bools, one for each token of the vocabulary, found {used!r}"
        )
        found = used.tolist()
        whose = "" if index == 0 else f", though only the other answer has said {said}"
        assert found == right, f"of prompt {prompt} tokens {sorted(set(prompt))} are used, found {np.flatnonzero(used)}{whose}"
        used[said] = True
    low = state_of(3, 0, 0.5, prompt)[1]
    assert low is not None, "a penalty of 0.5 invites what has occurred: used is needed at every penalty but 1, found None"
    assert state_of(3, 0, 1.0, prompt)[1] is None, "at a penalty of 1 the tokens that occurred do not matter: None, and no work"


class Silent:
    """A detokenizer that has nothing to say."""

    def push(self, token):
        return ""

    def flush(self):
        return ""


@given(seed=seeds_and, penalty=st.sampled_from([1.0, 1.5]))
def test_an_answer_says_the_same_alone_and_beside_another(seed, penalty):
    params = SamplingParams(max_tokens=9, seed=seed, temperature=1.0, repetition_penalty=penalty)
    logits = np.random.default_rng(seed).standard_normal((9, 12)).astype(np.float32)

    def answers(*requests):
        """Each request's tokens, all drawing in turns, from the same logits."""
        prompt = [1, 3]
        made = [Answer(id, prompt, params, None, Silent(), context=99, vocab_size=12) for id in requests]
        for row in logits:
            for answer in made:
                attempt("with a state that is its own", lambda answer=answer, row=row: answer.next_token(row, ()))
        return [answer.token_ids for answer in made]

    (alone,) = answers(0)
    for found in answers(1, 2):
        assert found == alone, f"seed {seed}, penalty {penalty}: alone it says {alone}, beside another {found}"
