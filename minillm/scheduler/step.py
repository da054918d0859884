"""One step in the making: who goes on, who must leave, who enters. What the policies are put together from.

    run     the running go on, the most senior first; whoever needs a block that is not there takes it from the last
    admit   the preempted come back, the most senior first; when none is left, the waiting enter in their order

    seniority ────────────────────────────────────────────────▶ junior
    running: A  B  C  D     preempted: E  F     waiting: by order       D leaves: it goes before E, and is back before E

The order of the waiting decides who enters, seniority who stays. Hence no starvation: the most senior of all who ever
entered and did not end is never taken anything, and runs to its end, which is at most max_tokens away; then the next is
the most senior. Preempted requests come back before anybody enters, so a running one has finitely many seniors, and a
waiting one finitely many who may pass it (order). Hence no deadlock: the first to run can take all others' blocks, and
was let in only if it fits the pool alone (limits).
"""

from collections import deque

from minillm.cache.block_table import BlockTable
from minillm.scheduler.plan import Plan, Share
from minillm.scheduler.preemption import blocks_to_return, come_back, growth, leave


def divide(pending, budget):  # [tokens], tokens -> [tokens]
    """Divide a step's token budget among the running, given in order of seniority: how many tokens each computes.

    pending: tokens that each has still to feed; 1 is a decode, more is (the rest of) a prompt, 0 takes no part.
    Decodes come first: each gets its one token, so that no long prompt makes a stream stutter. What is left goes to
    the prompts in order, each as much as it needs or as there is; those for whom nothing is left get 0.
    The budget covers the decodes. Sarathi-Serve: Agrawal et al., 2024, arXiv:2403.02310.
    """
    # BEGIN SOLUTION ex=06.3
    left = budget - sum(n == 1 for n in pending)
    shares = []
    for n in pending:
        chunk = 1 if n == 1 else min(n, left)
        left -= chunk if n > 1 else 0
        shares.append(chunk)
    return shares
    # END SOLUTION


def open_table(group, pool, cache, seats, alone):  # -> BlockTable or None
    """The table with which a waiting group may enter, holding what is cached of its prompt; None if it must wait.

    It needs a seat for each live answer, `seats` are free; and group.blocks(pool.block_size) blocks less those found in
    the cache (cache.match(tokens, salt) of the lead's tokens up to its target; cache may be None). The pool's watermark
    must stay free (pool.can_allocate), unless the group would be alone: then nobody else needs to grow.
    A group that must wait leaves everything as it was: a match is released.
    """
    # BEGIN SOLUTION ex=06.1
    if len(group.live) > seats:
        return None
    lead, salt = group.live[0], group.request.salt
    found = cache.match(lead.tokens[: lead.target], salt) if cache else []
    need = group.blocks(pool.block_size) - len(found)
    if pool.can_allocate(need) or (alone and need <= pool.num_free):
        return BlockTable(pool, found)
    pool.release(found)
    return None
    # END SOLUTION


class Step:
    """A plan under construction. left: tokens that the step can still take. full: did somebody not enter for lack of them?"""

    def __init__(self, scheduler):
        self.scheduler, self.config, self.pool = scheduler, scheduler.config, scheduler.pool
        self.plan, self.left, self.full = Plan(), scheduler.config.max_tokens_per_step, False

    def run(self, decode=True, prefill=True):
        """Let the running go on: those who decode, those still in their prompts, or both; the last give way where blocks lack.

        One group after the other, the most senior first. takes: [(sequence, tokens)] of the one whose turn it is. While
        its tables need more blocks to grow than the pool has free (growth([(table, tokens)]) says how many), the last of
        scheduler.running has to leave: it gives its blocks back (leave), and goes before all who were sent back earlier
        (scheduler.preempted, a deque). If that is the group itself, its turn is over; else the one who left has none
        any more (todo holds those whose turn is to come). Once there are blocks, self.take(takes) plans the tokens.
        """
        scheduler, pool = self.scheduler, self.pool
        active = [sequence for group in scheduler.running for sequence in group.active]
        pending = [s.pending if (decode if s.decoding else prefill) else 0 for s in active]
        share_of = dict(zip(active, divide(pending, self.left), strict=True))
        todo = deque(scheduler.running)
        while todo:
            group = todo.popleft()
            takes = [(sequence, n) for sequence in group.active if (n := share_of[sequence])]
            # BEGIN SOLUTION ex=06.2
            while growth([(sequence.table, n) for sequence, n in takes]) > pool.num_free:
                last = scheduler.running.pop()
                leave(last, scheduler.host, self.plan)
                scheduler.preempted.appendleft(last)
                if last is group:
                    break
                todo.pop()
            else:
                self.take(takes)
            # END SOLUTION

    def take(self, takes):
        """Plan n tokens for each of a group's sequences. Their blocks are free."""
        for sequence, n in takes:
            table, position = sequence.table, sequence.table.length
            _, copies = table.append(n)
            self.left -= n
            self.plan.copies += copies
            draws = ()
            if table.length == len(sequence.tokens):
                draws = (sequence.id,) if sequence.group.forked else tuple(s.id for s in sequence.group.live)
            tokens = sequence.tokens[position : table.length]
            self.plan.shares.append(Share(sequence.id, tokens, position, table.blocks.copy(), draws))

    def admit(self, decode=True, prefill=True, whole=False):
        """Let in whom there is room for: those who would decode (swapped ones), those with a prompt to compute, or both.

        whole: a prompt enters only if the step can take all of it. (What comes back may have grown beyond that, and is
        cut.) Nobody enters in a step in which somebody had to leave.
        """
        scheduler = self.scheduler
        self.full = False
        while not self.plan.preempted:
            seats = self.config.max_sequences - sum(len(group.live) for group in scheduler.running)
            if not seats:
                return  # before anybody is looked for: to find out who is next can take long (order)
            group = scheduler.preempted[0] if scheduler.preempted else scheduler.queue.head()
            if group is None or not (decode if group.swapped else prefill):
                return
            if not (self.swap_in(group, seats) if group.swapped else self.enter(group, seats, whole)):
                return

    def swap_in(self, group, seats):  # -> did it come back?
        """Bring a swapped group back, to decode one token for each answer."""
        need, answers = blocks_to_return(group), len(group.live)
        alone = not self.scheduler.running and need <= self.pool.num_free
        if answers > min(seats, self.left) or not (alone or self.pool.can_allocate(need)):
            return False
        come_back(group, self.pool, self.plan)
        self.seat(group, [(sequence, 1) for sequence in group.live])
        return True

    def enter(self, group, seats, whole):  # -> did it enter?
        """Let a group compute its prompt, or as much as this step has room for."""
        self.full = self.left == 0
        scheduler, lead = self.scheduler, group.live[0]
        lead.table = None if self.full else open_table(group, self.pool, scheduler.cache, seats, not scheduler.running)
        if lead.table is None:
            return False
        if whole and self.left < lead.pending <= self.config.max_tokens_per_step:
            group.forget()
            self.full = True
            return False
        if group.cached is None:
            group.cached = lead.table.length
            scheduler.queue.charge(group.request.user, lead.pending)
        self.seat(group, [(lead, min(lead.pending, self.left))])
        return True

    def seat(self, group, takes):
        """It runs from now on, the most junior of all."""
        scheduler = self.scheduler
        if scheduler.preempted:
            scheduler.preempted.popleft()
        else:
            scheduler.queue.enter(group)
        scheduler.running.append(group)
        self.take(takes)
