"""The scheduler: which tokens of which requests the next step computes, and where their keys and values go.

    add ─▶ waiting ──▶ running ──▶ ended       schedule() ─▶ Plan ─▶ an executor ─▶ StepResult ─▶ update() ─▶ and again
              ▲  first   │  ▲
              └── preempted ┘ (back to waiting, or swapped to the host)

Continuous batching is this: after every step, not after every batch, finished requests leave and others take their place.
The parts: admission control (config), the waiting queue (queues), how a step is filled (policies, from the parts in step),
which request gives up its blocks when they run out (preemption). Why none starves and nothing deadlocks: step and queues.

No arrays, no clock: the engine runs it with a model, the simulator with a formula. Orca: Yu et al., OSDI 2022.
"""

from collections import deque
from collections.abc import Callable

from minillm.cache.block_pool import BlockPool
from minillm.cache.prefix import HashPrefixCache
from minillm.cache.prefix_cache import PrefixCache
from minillm.cache.radix import RadixCache
from minillm.errors import RequestError
from minillm.scheduler.config import SchedulerConfig, check_admission
from minillm.scheduler.plan import Plan, SequenceId, Share, StepResult
from minillm.scheduler.policies import POLICIES
from minillm.scheduler.queues import QUEUES
from minillm.scheduler.request import Request, Sequence, SequenceGroup
from minillm.scheduler.step import PlanBuilder

__all__ = ["Request", "Scheduler", "SchedulerConfig"]


class Scheduler:
    """Plans steps for the requests it was given, until each has ended. Blocks in use when none is left: 0."""

    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config
        watermark = config.num_blocks // 100 if config.watermark is None else config.watermark
        self.pool = BlockPool(config.num_blocks, config.block_size, watermark)
        self.host = BlockPool(config.host_blocks, config.block_size) if config.host_blocks else None
        if config.preemption != "swap":
            self.host = None
        caches: dict[str, Callable[[BlockPool], PrefixCache]] = {"hash": HashPrefixCache, "radix": RadixCache}
        self.cache = caches[config.prefix](self.pool) if config.prefix else None
        self.queue = QUEUES[config.order](config.patience, self.cache)
        self.running: list[SequenceGroup] = []  # the most senior first
        self.preempted: deque[SequenceGroup] = deque()  # the same; all that run are senior to all preempted
        self.groups: dict[int, SequenceGroup] = {}  # by request id: all that have not ended
        self.sequences: dict[SequenceId, Sequence] = {}
        self.ended: dict[int, SequenceGroup] = {}  # since the last schedule()
        self.planned: Plan | None = None  # the plan that is being executed
        self.filling, self.prefills_in_a_row = True, 0  # of the policies that need to know

    # --- in and out -------------------------------------------------------------------------------------------------------

    def add(self, request: Request) -> None:
        """Accept a request. Raises RequestError, with the reason, if it could never finish."""
        check_admission(request, self.config)
        if request.id in self.groups:
            raise RequestError(f"request {request.id} is here already: every request needs an id of its own.")
        group = self.groups[request.id] = SequenceGroup(request)
        self.sequences.update((sequence.id, sequence) for sequence in group.live)
        self.queue.push(group)

    def cancel(self, request_id: int) -> bool:  # whether it was there
        """Abort a request, wherever it is; its blocks are free at once. Also between schedule() and update()."""
        group = self.groups.get(request_id)
        if group is None:
            return False
        if group in self.running:
            self.running.remove(group)
        elif group in self.preempted:
            self.preempted.remove(group)
        else:
            self.queue.remove(group)
        group.release_blocks()
        for sequence in group.live:
            del self.sequences[sequence.id]
        self.ended[request_id] = self.groups.pop(request_id)
        return True

    # --- a step -----------------------------------------------------------------------------------------------------------

    def schedule(self) -> Plan:
        """Plan the next step; no shares only if there is nothing to do. Execute the plan, then give it to update."""
        if self.planned is not None:
            raise RuntimeError("the last plan's results are not in: call update(plan, result) before schedule().")
        self.ended.clear()
        step = PlanBuilder(self)
        POLICIES[self.config.policy](step)
        step.add_drafts()
        self.planned = step.plan if step.plan.shares else None
        return step.plan

    def update(self, plan: Plan, result: StepResult) -> dict[SequenceId, str]:  # the reasons of all that ended in this step
        """Record the tokens that a step drew. Free sequences that end: as the result says, or for their length ("length").

        Requests cancelled since the plan was made are ignored. Drafts that were rejected leave their table; then full blocks are
        given to the prefix cache.
        """
        if plan.shares and plan is not self.planned:
            raise RuntimeError("this is not the plan that schedule() gave last.")
        self.planned = None
        ended: dict[SequenceId, str] = {}
        for share in plan.shares:
            sequence = self.sequences.get(share.sequence)
            if sequence is None or sequence.table is None:
                continue
            if share.drafts:
                sequence.table.truncate(share.position + len(result.tokens[share.sequence]))
            self.commit(sequence, share, result.tokens.get(share.sequence, []))
            for drawn in share.draws:
                sequence, tokens = self.sequences[drawn], result.tokens[drawn]
                sequence.tokens += tokens
                sequence.drafts = result.drafts.get(drawn, [])
                self.queue.charge(sequence.group.request.user, len(tokens))
                if reason := result.finished.get(drawn) or ("length" if sequence.room <= 0 else None):
                    ended[drawn] = reason
                    self.finish(sequence)
        if ended:
            self.running = [group for group in self.running if group.live]
        return ended

    def commit(self, sequence: Sequence, share: Share, drawn: list[int]) -> None:
        """Commit blocks that a share has filled to the prefix cache, and fork the group where the prompt ends.

        drawn: tokens that follow those of the sequence; drafts that were kept are among them, and computed.
        """
        group, table, size = sequence.group, sequence.table, self.config.block_size
        if self.cache and table.length // size > share.position // size:
            self.cache.commit((sequence.tokens + drawn)[: table.length], table.blocks, group.request.salt)
        if not group.forked and table.length == len(group.request.prompt):
            group.fork()  # after the commit: a block that others share cannot be exchanged for the one in the cache

    def finish(self, sequence: Sequence) -> None:
        """Free a complete answer, and its group with the last one."""
        group = sequence.group
        sequence.table.free()
        group.live.remove(sequence)
        del self.sequences[sequence.id]
        if not group.live:
            self.ended[group.request.id] = self.groups.pop(group.request.id)

    # --- what may be asked --------------------------------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """Whether there is a request that has not ended."""
        return bool(self.groups)

    @property
    def num_waiting(self) -> int:
        """Requests that hold no blocks: not yet admitted, or preempted to be recomputed."""
        return len(self.groups) - len(self.running) - self.num_swapped

    @property
    def num_running(self) -> int:
        """Requests that hold blocks of the device."""
        return len(self.running)

    @property
    def num_swapped(self) -> int:
        """Requests whose blocks are in the host's memory."""
        return sum(group.swapped for group in self.preempted)

    def cached_tokens(self, request_id: int) -> int:
        """Prompt tokens found in the prefix cache at admission. Known until the schedule() after its end; then 0."""
        group = self.groups.get(request_id) or self.ended.get(request_id)
        return (group.cached or 0) if group else 0

    def snapshot(self) -> dict[str, int]:
        """Count what is queued and what is in use, for tests."""
        return {
            "waiting": self.num_waiting,
            "running": self.num_running,
            "swapped": self.num_swapped,
            "sequences": sum(len(group.live) for group in self.running),
            "blocks_used": self.pool.num_blocks - self.pool.num_free,
            "blocks_total": self.pool.num_blocks,
            "blocks_cached": len(self.pool.kept),
        }
