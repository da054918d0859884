"""One step under construction: which requests continue, which are preempted, which are admitted. The policies' parts.

    schedule_running   running requests continue, the most senior first; where blocks run out, the last is preempted
    admit              preempted requests resume, the most senior first; when none is left, waiting ones enter in their order
    add_drafts         what is left goes to drafts: so speculation delays nobody, preempts nobody, and ends under load by itself

    seniority ────────────────────────────────────────────────▶ junior
    running: A  B  C  D     preempted: E  F     waiting: by queue       D is preempted: it goes before E, and resumes before E

The queue decides which request is admitted, seniority which one stays. Hence no starvation: nothing is taken from the most
senior of all admitted requests, so it runs to its end, at most max_tokens away; then the next is the most senior. Preempted
requests resume before new ones are admitted, so a running request has finitely many seniors, and a waiting one finitely many
that may overtake it (queues). Hence no deadlock: the most senior can take all others' blocks, and was admitted only if it
fits the pool alone (config).
"""

from collections import deque
from typing import Any

from minillm.cache.block_pool import BlockPool
from minillm.cache.block_table import BlockTable
from minillm.cache.prefix_cache import PrefixCache
from minillm.scheduler.plan import Plan, SequenceId, Share
from minillm.scheduler.preemption import blocks_needed, blocks_to_swap_in, preempt, swap_in
from minillm.scheduler.request import Sequence, SequenceGroup


def split_budget(pending: list[int], budget: int) -> list[int]:
    """Divide a step's token budget among the running sequences, in order of seniority: how many tokens each computes.

    pending: tokens that each has still to feed; 1 is a decode, more is (the rest of) a prompt, 0 takes no part.
    Decodes come first: each gets its one token, so that no long prompt delays a stream. What is left goes to the
    prompts in order, each as much as it needs or as there is; prompts for which nothing is left get 0.
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


def allocate_table(
    group: SequenceGroup, pool: BlockPool, cache: PrefixCache | None, seats: int, alone: bool
) -> BlockTable | None:
    """Admit a waiting group by free blocks: return its table, holding the cached part of its prompt; None if it must wait.

    It needs a seat for each answer that has not ended (group.live), `seats` are free; and group.blocks(pool.block_size)
    blocks less those found in the cache. The first of group.live is the lead, which computes the prompt for all: look for its
    tokens up to lead.target, where those of the answers part (cache.match(tokens, group.request.salt); cache may be None).
    The pool's watermark must stay free (pool.can_allocate), unless the group would be alone: then no other needs to grow.
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


class PlanBuilder:
    """A plan under construction. left: tokens that the step can still take. full: whether a group waits for want of them."""

    def __init__(self, scheduler: Any) -> None:  # a Scheduler, whose module imports this one
        self.scheduler, self.config, self.pool = scheduler, scheduler.config, scheduler.pool
        self.plan, self.left, self.full = Plan(), scheduler.config.max_tokens_per_step, False

    def schedule_running(self, decode: bool = True, prefill: bool = True) -> None:
        """Continue the running groups: decodes, prompts, or both. Preempt the last one while blocks are missing.

        One group after the other, the most senior first. takes: [(sequence, tokens)] of the group whose turn it is. While
        its tables need more blocks than the pool has free (blocks_needed([(table, tokens)]) says how many), the last of
        scheduler.running is preempted: preempt(...) takes its blocks, and it goes before all that were preempted earlier
        (scheduler.preempted, a deque). If that is the group itself, its turn is over; else the preempted one loses its
        turn (todo holds those whose turn is to come). Once there are blocks, self.plan_shares(takes) plans the tokens.
        """
        scheduler, pool = self.scheduler, self.pool
        active = [sequence for group in scheduler.running for sequence in group.active]
        pending = [s.pending if (decode if s.decoding else prefill) else 0 for s in active]
        share_of = dict(zip(active, split_budget(pending, self.left), strict=True))
        todo = deque(scheduler.running)
        while todo:
            group = todo.popleft()
            takes = [(sequence, n) for sequence in group.active if (n := share_of[sequence])]
            # BEGIN SOLUTION ex=06.2
            while blocks_needed([(sequence.table, n) for sequence, n in takes]) > pool.num_free:
                last = scheduler.running.pop()
                preempt(last, scheduler.host, self.plan)
                scheduler.preempted.appendleft(last)
                if last is group:
                    break
                todo.pop()
            else:
                self.plan_shares(takes)
            # END SOLUTION

    def plan_shares(self, takes: list[tuple[Sequence, int]]) -> None:
        """Add a share of n tokens for each of a group's sequences to the plan. Their blocks are free."""
        for sequence, n in takes:
            table, position = sequence.table, sequence.table.length
            _, copies = table.append(n)
            self.left -= n
            self.plan.copies += copies
            draws: tuple[SequenceId, ...] = ()
            if table.length == len(sequence.tokens):
                draws = (sequence.id,) if sequence.group.forked else tuple(s.id for s in sequence.group.live)
            tokens = sequence.tokens[position : table.length]
            self.plan.shares.append(Share(sequence.id, tokens, position, table.blocks.copy(), draws))

    def add_drafts(self) -> None:
        """Let decodes verify their drafts, as far as the step has tokens, and the pool blocks above its watermark.

        Of drafts and one token more that follows them, none may go beyond max_tokens.
        """
        for share in self.plan.shares:
            sequence = self.scheduler.sequences[share.sequence]
            if not sequence.drafts or share.draws != (share.sequence,) or len(share.tokens) != 1:
                continue
            table, n = sequence.table, min(len(sequence.drafts), sequence.room - 1, self.left)
            while n > 0 and not self.pool.can_allocate(table.blocks_for(n)):
                n -= 1
            if n > 0:
                table.append(n)  # no copies: the block of the last token is its own, as that token has just got a slot
                share.tokens = share.tokens + sequence.drafts[:n]
                share.blocks, share.drafts = table.blocks.copy(), n
                self.left -= n

    def admit(self, decode: bool = True, prefill: bool = True, whole: bool = False) -> None:
        """Admit groups while there is room: those that would decode (swapped ones), those with a prompt to compute, or both.

        whole: admit a prompt only if the step can take all of it. (A preempted one may have grown beyond that, and is
        cut.) A step that preempts a group admits none.
        """
        scheduler = self.scheduler
        self.full = False
        while not self.plan.preempted:
            seats = self.config.max_sequences - sum(len(group.live) for group in scheduler.running)
            if not seats:
                return  # before asking the queue: to find out which is next can take long
            group = scheduler.preempted[0] if scheduler.preempted else scheduler.queue.peek()
            if group is None or not (decode if group.swapped else prefill):
                return
            if not (self.try_swap_in(group, seats) if group.swapped else self.try_prefill(group, seats, whole)):
                return

    def try_swap_in(self, group: SequenceGroup, seats: int) -> bool:  # whether it resumed
        """Swap a group in, if it fits, to decode one token for each answer."""
        need, answers = blocks_to_swap_in(group), len(group.live)
        alone = not self.scheduler.running and need <= self.pool.num_free
        if answers > min(seats, self.left) or not (alone or self.pool.can_allocate(need)):
            return False
        swap_in(group, self.pool, self.plan)
        self.start_running(group, [(sequence, 1) for sequence in group.live])
        return True

    def try_prefill(self, group: SequenceGroup, seats: int, whole: bool) -> bool:  # whether it was admitted
        """Admit a group, if it fits, to compute its prompt, or as much of it as this step has room for."""
        self.full = self.left == 0
        scheduler, lead = self.scheduler, group.live[0]
        cache = scheduler.cache if group.reuses else None
        table = None if self.full else allocate_table(group, self.pool, cache, seats, not scheduler.running)
        if table is None:
            return False
        lead.table = table
        if whole and self.left < lead.pending <= self.config.max_tokens_per_step:
            group.release_blocks()
            self.full = True
            return False
        if group.cached is None:
            group.cached = lead.table.length
            scheduler.queue.charge(group.request.user, lead.pending)
        self.start_running(group, [(lead, min(lead.pending, self.left))])
        return True

    def start_running(self, group: SequenceGroup, takes: list[tuple[Sequence, int]]) -> None:
        """Move a group to the running ones, as the most junior, and plan its first shares."""
        scheduler = self.scheduler
        if scheduler.preempted:
            scheduler.preempted.popleft()
        else:
            scheduler.queue.pop(group)
        scheduler.running.append(group)
        self.plan_shares(takes)
