"""An executor without a model, beside which a scheduler can be tested: it keeps what each slot holds, and believes nothing.

A slot holds a fact: a number made of a token and of the fact before it, as keys and values depend on a token and on all
before it. Drawn tokens are made of facts that were read back from the slots. So a block that was swapped, copied, shared or
cached wrongly changes the answer, and the right answer to every request is known beforehand: it depends on nothing else.
"""

from itertools import accumulate

import pytest

from minillm.scheduler.plan import Plan, SequenceId, StepResult
from minillm.scheduler.scheduler import Request, Scheduler, SchedulerConfig

VOCABULARY = 3
NOBODYS = VOCABULARY  # a token that nobody draws


def attempt(what, call):
    """call(); what it raises becomes a failure with words. What is not written yet stays a TODO."""
    try:
        return call()
    except NotImplementedError:
        raise
    except Exception as error:
        pytest.fail(f"{what}, it raised {type(error).__name__}: {error}")


def follow(fact, token):
    """The fact of a token after another fact."""
    return (fact * 6364136223846793005 + token + 1442695040888963407) % (1 << 64)


def facts_of(tokens, salt=None):
    """The facts of a sequence, from its beginning."""
    return list(accumulate(tokens, follow, initial=len(str(salt))))[1:]


def draw(fact, index, stops):  # -> token, does it end here?
    """What the model would say after a fact, to answer `index` of a request."""
    number = follow(follow(fact, index), 0) >> 33
    return number % VOCABULARY, bool(stops) and number % stops == 0


def answer(request, index, stops=0):  # -> tokens, reason
    """All that answer `index` of a request will be, whatever runs beside it."""
    tokens = list(request.prompt)
    while True:
        token, stop = draw(facts_of(tokens, request.salt)[-1], index, stops)
        tokens.append(token)
        drawn = len(tokens) - len(request.prompt)
        if stop or drawn == request.max_tokens:
            return tokens[len(request.prompt) :], "stop" if stop else "length"


def most_blocks(request, size):
    """Blocks of a request at its largest, counted one by one: those wholly of the prompt once, others for each answer."""
    prompt, fed = len(request.prompt), len(request.prompt) + request.max_tokens - 1
    of_prompt = {position // size for position in range(prompt)}
    if fed == prompt:
        return len(of_prompt)
    whole = {block for block in of_prompt if (block + 1) * size <= prompt}
    own = {(i, position // size) for i in range(request.n) for position in range(fed) if position // size not in whole}
    return len(whole) + len(own)


class ModelOfAnExecutor:
    """Carries out plans in two lists of slots, and checks each plan against what may be asked of an executor."""

    def __init__(self, scheduler, stops=0, guesses=None):
        config = scheduler.config
        self.scheduler, self.size, self.stops = scheduler, config.block_size, stops
        self.device = [None] * config.num_blocks * self.size
        self.host = [None] * config.host_blocks * self.size
        self.requests = {}  # every request ever sent
        self.tokens = {}  # SequenceId -> prompt and what was drawn, of those that have not ended
        self.computed = {}  # SequenceId -> tokens whose facts are in the blocks; None: a new life begins
        self.outcome, self.gone = {}, {}  # SequenceId -> reason, tokens; of those that have ended
        self.steps = self.fed = self.preempted = self.kept = self.rejected = 0
        self.guesses = guesses  # (sequence, length of its text) -> drafts that are right, and after those so many that are wrong

    def add(self, request):
        self.scheduler.add(request)
        self.requests[request.id] = request
        for i in range(request.n):
            self.tokens[SequenceId(request.id, i)], self.computed[SequenceId(request.id, i)] = list(request.prompt), None

    def cancel(self, request_id):
        live = [id for id in self.tokens if id.request == request_id]
        assert self.scheduler.cancel(request_id) == bool(live), "cancel says whether there was something to cancel"
        for id in live:
            self.end(id, "cancelled")

    def end(self, id, reason):
        assert id not in self.outcome, f"{id} ends twice: {self.outcome[id]}, {reason}"
        self.outcome[id] = reason
        self.gone[id] = self.tokens.pop(id)
        del self.computed[id]

    def step(self, cancel_before=None, cancel_after=None):  # -> Plan
        """One step of the loop; a request may be cancelled before its plan is carried out, or after."""
        before = set(self.tokens)
        plan = self.scheduler.schedule()
        self.note_preempted(plan)
        planned = [list(share.blocks) for share in plan.shares]
        if cancel_before is not None:
            self.cancel(cancel_before)
        result = self.execute(plan)
        if cancel_after is not None:
            self.cancel(cancel_after)
        ended = self.scheduler.update(plan, result)
        self.take_in(plan, result, ended)
        assert set(ended) <= before
        assert [share.blocks for share in plan.shares] == planned, "a plan is a record: it does not change afterwards"
        self.steps, self.fed = self.steps + 1, self.fed + plan.tokens
        return plan

    def note_preempted(self, plan):
        self.preempted += len(plan.preempted)
        for id in plan.preempted:
            if not self.scheduler.groups[id.request].swapped:
                self.computed[id] = None

    # --- carrying out a plan ----------------------------------------------------------------------------------------------

    def execute(self, plan: Plan):  # -> StepResult
        size, kept = self.size, self.scheduler.pool.kept
        for source, target, pairs in (
            (self.device, self.host, plan.swaps_out),
            (self.host, self.device, plan.swaps_in),
            (self.device, self.device, plan.copies),
        ):
            for a, b in pairs:
                assert target is not self.device or b not in kept, f"block {b} is cached, and copied over"
                target[b * size : (b + 1) * size] = source[a * size : (a + 1) * size]
        for share in plan.shares:
            self.check(share)
        written = {}
        for share in plan.shares:
            for slot, fact in zip(self.slots(share, share.position), self.facts(share)[share.position :], strict=True):
                assert slot not in written, f"{share.sequence} and {written[slot]} write slot {slot} in one step"
                written[slot] = share.sequence
                self.device[slot] = fact
        result = StepResult()
        for share in plan.shares:
            held = [self.device[slot] for slot in self.slots(share, 0)]
            assert held == self.facts(share), f"{share.sequence} does not read its own past: another sequence wrote to it"
            for id in share.draws:
                result.tokens[id] = []
                for i in range(share.drafts + 1):
                    token, stop = draw(held[len(held) - share.drafts - 1 + i], id.index, self.stops)
                    result.tokens[id].append(token)
                    if stop:
                        result.finished[id] = "stop"
                    if stop or i == share.drafts or token != share.tokens[1 + i]:
                        break
                self.kept += len(result.tokens[id]) - 1
                self.rejected += share.drafts - len(result.tokens[id]) + 1
                if self.guesses is not None and id not in result.finished:
                    result.drafts[id] = self.guess(id, share, result.tokens[id])
        return result

    def guess(self, id, share, drawn):
        """What may follow: the truth, up to where it is to be wrong."""
        known = (self.tokens.get(id) or self.gone[id]) + drawn
        right, wrong = self.guesses(id, len(known))
        salt = self.requests[id.request].salt
        for _ in range(right):
            known = [*known, draw(facts_of(known, salt)[-1], id.index, self.stops)[0]]
        return known[len(known) - right :] + [NOBODYS] * wrong if right else [NOBODYS] * wrong

    def slots(self, share, start):
        end = share.position + len(share.tokens)
        return [share.blocks[p // self.size] * self.size + p % self.size for p in range(start, end)]

    def facts(self, share):
        """The facts that a share's blocks must hold when it is computed."""
        request = self.requests[share.sequence.request]
        known = self.tokens.get(share.sequence) or self.gone[share.sequence]
        return facts_of(known[: share.position] + share.tokens, request.salt)

    def check(self, share):
        """A share: the right tokens at the right positions, in blocks that are its own to write to, drawing when it should."""
        id, position, end = share.sequence, share.position, share.position + len(share.tokens)
        assert share.tokens, f"{id} computes nothing"
        assert len(share.blocks) == -(-end // self.size), "the table has room for the new tokens, and no more"
        held = [self.device[slot] for slot in self.slots(share, 0)[:position]]
        assert held == self.facts(share)[:position], f"{id}: what is in its blocks is not its past"
        pool = self.scheduler.pool
        fresh = {share.blocks[p // self.size] for p in range(position, end)}
        assert not fresh & pool.kept, f"{id} writes to a cached block"
        if id not in self.tokens:
            return  # cancelled meanwhile
        assert all(pool.refs[block] == 1 for block in fresh), f"{id} writes to a block that others own"
        known, prompt = self.tokens[id], len(self.requests[id.request].prompt)
        live = tuple(other for other in self.tokens if other.request == id.request)
        end -= share.drafts
        assert share.tokens[: end - position] == known[position:end], f"{id} computes other tokens than come next"
        assert not share.drafts or share.draws == (id,), f"{id} has drafts, and is not in a decode of its own"
        assert end + share.drafts < prompt + self.requests[id.request].max_tokens, f"{id} has drafts beyond its end"
        if self.computed[id] is None:
            assert id == live[0], "the lead computes the prompt for all"
            assert position % self.size == 0 and (self.scheduler.cache or not position), "a life begins at 0, or after a hit"
        else:
            assert position == self.computed[id], f"{id} has {self.computed[id]} tokens computed, and goes on at {position}"
        leads = len(live) > 1 and any(self.computed[other] is None for other in live[1:])
        assert end <= prompt or not leads, "the lead waits for the others at the end of the prompt"
        if end < len(known):
            assert share.draws == (), f"{id} draws before all its tokens are computed"
        else:
            assert share.draws == (live if leads else (id,))

    def take_in(self, plan, result, ended):
        """What follows from a step for those who were not cancelled in it."""
        for share in plan.shares:
            id, end = share.sequence, share.position + len(share.tokens)
            if id not in self.tokens:
                continue
            live = [other for other in self.tokens if other.request == id.request]
            if end == len(self.requests[id.request].prompt):
                self.computed.update({other: end for other in live if self.computed[other] is None})
            self.computed[id] = position_after(share, result)
            for drawn in share.draws:
                self.tokens[drawn] += result.tokens[drawn]
        for id, reason in ended.items():
            request, tokens = self.requests[id.request], self.tokens[id]
            assert (tokens[len(request.prompt) :], reason) == answer(request, id.index, self.stops), f"{id}: a wrong answer"
            assert self.computed[id] == len(tokens) - 1, "the token drawn last is never fed, or was a draft"
            self.end(id, reason)
        for id, tokens in self.tokens.items():
            assert len(tokens) - len(self.requests[id.request].prompt) < self.requests[id.request].max_tokens, (
                f"{id} should have ended"
            )


def position_after(share, result):
    """Where a sequence goes on: behind what was computed and kept."""
    return share.position + (len(result.tokens[share.sequence]) if share.drafts else len(share.tokens))


def loop(stops=0, guesses=None, **config):  # -> ModelOfAnExecutor
    """A scheduler with this configuration, and an executor for it."""
    return ModelOfAnExecutor(Scheduler(SchedulerConfig(**config)), stops, guesses)


def request(id, prompt=4, max_tokens=3, **more):
    """A request whose prompt, if given as a number, is so many tokens that no other request begins with."""
    tokens = [id + 10] * prompt if isinstance(prompt, int) else prompt
    return Request(id, tokens, max_tokens, **more)


ROOMY = {"num_blocks": 100, "block_size": 4, "max_sequences": 4, "max_tokens_per_step": 64}


def started(*requests, **config):
    engine = loop(**(ROOMY | config))
    for r in requests:
        engine.add(r)
    return engine


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
