"""The scheduler under every policy, order, way of preemption and prefix cache, and whatever users do, in any order.

An executor that knows no model (scheduler_help) carries the plans out and checks each share, what it reads, what it writes
and what comes of it. Here: what must hold of the scheduler as a whole after each step.
"""

from collections import Counter
from itertools import product

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from scheduler_help import loop, most_blocks

from minillm.errors import RequestError
from minillm.scheduler.config import ORDERS, POLICIES, PREEMPTIONS, PREFIXES
from minillm.scheduler.scheduler import Request

EXAMPLES, LONG, STEPS, CROWD = 5, 20, 40, 9  # for each of the 96 ways to configure it
anyone = st.integers(0, 999)
requests = st.fixed_dictionaries(
    {
        "prompt": st.lists(st.integers(0, 1), min_size=1, max_size=5) | st.integers(1, 14).map(lambda n: [0] * n),
        "max_tokens": st.integers(1, 4) | st.integers(6, 14),
        "n": st.sampled_from([1, 1, 1, 2, 3]),
        "user": st.sampled_from("ab"),
        "priority": st.integers(0, 2),
        "salt": st.sampled_from([None, None, None, "s"]),
    }
)


def guesses(seed):  # -> a rule by which drafts are made, for half of the machines: seldom all right, seldom all wrong
    def rule(id, length):
        number = (31 * id.request + 7 * id.index + 13 * length + seed) * 2654435761 >> 8
        return number % 4, number // 4 % 3

    return rule


class SchedulerMachine(RuleBasedStateMachine):
    """Subclasses say policy, order, preemption and prefix."""

    way, planned, drafts = {}, 0, 0

    @initialize(
        size=st.sampled_from([1, 2, 4]),
        tokens=st.integers(10, 36),
        host_blocks=st.sampled_from([0, 4, 30]),
        max_sequences=st.sampled_from([1, 3, 4, 6]),
        spare=st.integers(0, 12),
        watermark=st.integers(0, 2),
        patience=st.integers(0, 3),
        stops=st.sampled_from([0, 0, 12]),
        seed=st.none() | st.integers(0, 99),
        several=st.lists(requests, min_size=2, max_size=5),
    )
    def begin(self, size, tokens, spare, stops, seed, several, **config):
        config |= self.way | {"block_size": size}
        config |= {"max_tokens_per_step": config["max_sequences"] + spare, "num_blocks": -(-tokens // size)}
        self.loop = loop(stops, None if seed is None else guesses(seed), context_length=24, **config)
        self.scheduler, self.config = self.loop.scheduler, self.loop.scheduler.config
        self.policy, self.sent = self.config.policy, 0
        self.entered = []  # requests in the order in which they first ran
        self.may_be_passed = {}  # waiting request -> how many may still enter before it does
        self.closed = False  # of the static policy: does its batch decode?
        for request in several:
            self.arrive(request)

    # --- what users do ----------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.scheduler.groups) < CROWD)
    @rule(request=requests)
    def arrive(self, request):
        self.sent += 1
        request, config = Request(self.sent, **request), self.config
        reasons = [
            request.n > config.max_sequences,
            len(request.prompt) + request.max_tokens > 24,
            config.policy != "chunked" and len(request.prompt) > config.max_tokens_per_step,
            most_blocks(request, config.block_size) > config.num_blocks,
        ]
        if any(reasons):
            before = self.scheduler.snapshot()
            with pytest.raises(RequestError):
                self.loop.add(request)
            assert self.scheduler.snapshot() == before
            return
        waiting = len(self.scheduler.queue)
        self.loop.add(request)
        self.may_be_passed[request.id] = (waiting + 1) * (config.patience + 1) - 1

    @rule(number=anyone)
    def cancel(self, number):
        """Anyone who ever came: waiting, running, swapped, ended; and some who never did."""
        self.loop.cancel(number % (self.sent + 2))

    @precondition(lambda self: self.scheduler.has_work)
    @rule(before=st.none() | anyone, after=st.none() | anyone, number=st.integers(0, 9))
    def step(self, before=None, after=None, number=0):
        """Most steps go undisturbed; in some, one of the running is cancelled while its plan is out."""
        running = [group.request.id for group in self.scheduler.running]
        before = running[before % len(running)] if before is not None and running and number == 1 else None
        after = running[after % len(running)] if after is not None and running and number == 2 else None
        self.observe(lambda: self.loop.step(before, after))

    @precondition(lambda self: self.scheduler.has_work)
    @rule(times=st.integers(2, 6))
    def steps(self, times):
        for _ in range(times):
            self.step()
            self.blocks_are_conserved()

    @precondition(lambda self: not self.scheduler.has_work)
    @rule()
    def idle(self):
        assert self.loop.step().tokens == 0, "there is nothing to do"

    def observe(self, step):
        scheduler, config = self.scheduler, self.config
        had_work, was_running = scheduler.has_work, bool(scheduler.running)
        prompts = {id: len(request.prompt) for id, request in self.loop.requests.items()}
        swapped = {s.id for group in scheduler.preempted if group.swapped for s in group.live}
        decoding = {s.id for group in scheduler.running for s in group.active if s.decoding}
        schedule = scheduler.schedule

        def observed():
            plan = schedule()
            self.check_plan(plan, decoding, swapped, prompts, was_running)
            return plan

        scheduler.schedule = observed
        plan = step()
        del scheduler.schedule
        type(self).planned += 1
        type(self).drafts += sum(share.drafts for share in plan.shares)
        assert bool(plan.shares) == had_work, "there is work and the plan is empty, or the other way round"
        assert plan.tokens <= config.max_tokens_per_step

    def check_plan(self, plan, decoding, swapped, prompts, was_running):
        """As the plan is made, before anyone is cancelled: limits, seniority, and what the policy promises."""
        scheduler, config = self.scheduler, self.config
        answers = sum(len(group.live) for group in scheduler.running)
        assert answers <= config.max_sequences and len(plan.shares) <= config.max_sequences
        shares = {share.sequence: share for share in plan.shares}
        assert len(shares) == len(plan.shares), "a sequence has two shares"
        assert not set(shares) & set(plan.preempted), "a preempted sequence has no share"
        new = [group.request.id for group in scheduler.running if group.request.id not in self.entered]
        assert not (plan.preempted and (new or plan.swaps_in)), "a step that preempts admits none"
        for id in new:
            assert self.may_be_passed.pop(id) >= 0, "more have passed a waiting request than may"
            for waiting in self.may_be_passed:
                self.may_be_passed[waiting] -= 1
        self.entered += new
        age = {id: number for number, id in enumerate(self.entered)}
        ages = [age[group.request.id] for group in [*scheduler.running, *scheduler.preempted]]
        assert ages == sorted(ages), "a junior runs while a senior waits to come back, or is more senior than it"

        late = set(shares) & (decoding | swapped)
        if self.policy in ("vllm", "static"):
            assert not late or late == set(shares), "prompts and decodes share a step"
        else:
            assert decoding - set(plan.preempted) <= set(shares), "a decode must wait for a prompt"
        if self.policy != "chunked":
            for id in new:
                lead = next(share for sequence, share in shares.items() if sequence.request == id)
                assert lead.draws, "a prompt is cut"
        if self.policy == "static":
            self.closed &= was_running
            assert not (new and self.closed), "one enters a batch that decodes"
            self.closed |= bool(late)

    # --- what must hold after each step -----------------------------------------------------------------------------------

    @invariant()
    def blocks_are_conserved(self):
        scheduler = self.scheduler
        tables = [s.table for s in scheduler.sequences.values() if s.table is not None]
        for pool in filter(None, (scheduler.pool, scheduler.host)):
            owners = Counter(block for table in tables if table.pool is pool for block in table.blocks)
            assert pool.refs == [owners[block] for block in range(pool.num_blocks)], "reference count = owners"
            assert sorted([*pool.blank, *pool.idle, *owners]) == list(range(pool.num_blocks)), "a block is lost, or twice there"
        for group in scheduler.preempted:
            assert all((s.table is not None) == group.swapped for s in group.live)
        assert not any(group.swapped for group in scheduler.running)
        for group in scheduler.queue.waiting.values():
            assert all(s.table is None for s in group.live), "a waiting request holds blocks"

    @invariant()
    def the_books_agree(self):
        scheduler = self.scheduler
        assert set(scheduler.sequences) == set(self.loop.tokens), "a request is lost, or does not go"
        assert {id: s.tokens for id, s in scheduler.sequences.items()} == self.loop.tokens
        inside = [g.request.id for g in [*scheduler.running, *scheduler.preempted, *scheduler.queue.waiting.values()]]
        assert sorted(inside) == sorted(scheduler.groups), "a request is nowhere, or in two places"
        counts = scheduler.num_waiting + scheduler.num_running + scheduler.num_swapped
        assert counts == len(scheduler.groups) and scheduler.num_waiting >= len(scheduler.queue)
        self.may_be_passed = {id: n for id, n in self.may_be_passed.items() if id in scheduler.groups}

    def teardown(self):
        """Every request ends, in a number of steps that can be said beforehand, and every block is free."""
        if not hasattr(self, "loop"):
            return
        scheduler, requests = self.scheduler, self.loop.requests
        work = sum(r.n * (len(r.prompt) + r.max_tokens) for r in requests.values() if r.id in scheduler.groups)
        for _ in range(100 + 40 * work):
            if not scheduler.has_work:
                break
            self.step()
        assert not scheduler.has_work, "it does not come to an end"
        assert set(self.loop.outcome) == {(r.id, i) for r in requests.values() for i in range(r.n)}, "not every answer ended"
        assert scheduler.pool.num_free == scheduler.pool.num_blocks
        assert scheduler.host is None or scheduler.host.num_free == scheduler.host.num_blocks


WAYS = [
    dict(zip(("policy", "order", "preemption", "prefix"), way, strict=True))
    for way in product(POLICIES, ORDERS, PREEMPTIONS, PREFIXES)
]


@pytest.mark.parametrize("examples", [EXAMPLES, pytest.param(LONG, marks=pytest.mark.slow)])
@pytest.mark.parametrize("way_", WAYS, ids=lambda way: "-".join(map(str, way.values())))
def test_whatever_users_do_every_request_ends_once_with_its_own_answer(way_, examples):
    class Machine(SchedulerMachine):
        way, planned, drafts = way_, 0, 0

    rounds = settings(max_examples=examples, stateful_step_count=STEPS, deadline=None, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(Machine, settings=rounds)
    assert Machine.planned > 6 * examples, f"{Machine.planned:,} steps are too few to have met everything"
    assert Machine.drafts > examples, f"{Machine.drafts:,} drafts are too few"
