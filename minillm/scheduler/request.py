"""What the scheduler knows of a request: request → sequence group → sequences (vLLM's names).

    Request          what a user sent: a prompt, how many tokens at most, how many answers (n), whose it is
    SequenceGroup    a request while the scheduler has it: waiting, running, or preempted
    Sequence         one answer in the making: its tokens, and the table of blocks that hold their keys and values

All answers of a request share the blocks of its prompt, so a group moves as one: it is admitted, preempted and resumed
with all its answers. The prompt is computed once, by the *lead*; at its end the lead's table is forked for the others:

    prompt ──▶ ─ ─ ─ ─ ─ ┬──▶ answer 0 (the lead)
    lead alone            ├──▶ answer 1          one token more than is computed: the last one drawn
                          └──▶ answer 2          has still to be fed

So what a sequence has still to compute is always its tokens less those in its table, after a preemption too: the prompt
again (by the lead), then each its own output.
"""

from dataclasses import dataclass, field

from minillm.cache.block_table import BlockTable
from minillm.scheduler.plan import SequenceId


@dataclass(slots=True)
class Request:
    """What a user sent. id: the caller's, unique among those in the scheduler. n: answers, each of max_tokens at most.

    priority: smaller is more urgent. salt: prompts with different salts share nothing in the prefix cache. whole: compute all
    of the prompt, also what the prefix cache holds, as the logits of all its positions are wanted.
    """

    id: int
    prompt: list[int]
    max_tokens: int
    n: int = 1
    user: str = ""
    priority: float = 0
    salt: object = None
    whole: bool = False


@dataclass(eq=False, slots=True)
class Sequence:
    """One answer in the making. tokens: the prompt, then the drawn tokens. table: None while nothing of it is computed.

    drafts: guesses at the tokens that follow, for the next step to verify. They are nobody's text yet.
    """

    id: SequenceId
    group: "SequenceGroup"
    tokens: list[int]
    table: BlockTable = None  # type: ignore[assignment]  # it is there while anything of the sequence is computed
    drafts: list[int] = field(default_factory=list)

    @property
    def room(self) -> int:
        """Tokens that it may still draw."""
        request = self.group.request
        return len(request.prompt) + request.max_tokens - len(self.tokens)

    @property
    def target(self) -> int:
        """Tokens up to which it can be computed now: all, or the prompt while it leads others."""
        return len(self.tokens) if self.group.forked else len(self.group.request.prompt)

    @property
    def pending(self) -> int:
        """Tokens that are known and not computed."""
        return self.target - self.table.length

    @property
    def decoding(self) -> bool:
        """Whether it has one token to feed, as a rule the one drawn last, and leads no others."""
        return self.group.forked and self.pending == 1


@dataclass(eq=False, slots=True)
class SequenceGroup:
    """A request in the scheduler. live: the answers that have not ended. cached: prompt tokens found cached at first."""

    request: Request
    live: list[Sequence] = field(init=False)
    forked: bool = field(init=False)  # has every live answer a table of its own? False while the lead computes the prompt for all
    swapped: bool = False  # are its tables in the host's pool?
    cached: int | None = None

    def __post_init__(self) -> None:
        request = self.request
        self.live = [Sequence(SequenceId(request.id, i), self, list(request.prompt)) for i in range(request.n)]
        self.forked = request.n == 1

    @property
    def reuses(self) -> bool:
        """Whether it may take what the prefix cache holds: also where the whole prompt is wanted, once that was computed."""
        return not self.request.whole or len(self.live[0].tokens) > len(self.request.prompt)

    @property
    def active(self) -> list[Sequence]:
        """The sequences that have something to compute: the lead alone, or all."""
        return self.live if self.forked else self.live[:1]

    def blocks(self, block_size: int) -> int:
        """Count the blocks that hold all tokens of all live answers: full ones of the prompt once, the rest for each."""
        shared = len(self.request.prompt) // block_size
        if len(self.live[0].tokens) == len(self.request.prompt):  # nothing drawn yet: the last block is common too
            return -(-len(self.request.prompt) // block_size)
        return shared + sum(-(-len(s.tokens) // block_size) - shared for s in self.live)

    def fork(self) -> None:
        """Share the prompt's blocks: the lead has computed them, every other answer gets a table of the same blocks."""
        lead, *others = self.live
        for sequence in others:
            sequence.table = lead.table.fork()
        self.forked = True

    def release_blocks(self) -> None:
        """Free all blocks. If it runs again, it begins at the prompt."""
        for sequence in self.live:
            if sequence.table is not None:
                sequence.table.free()
                sequence.table = None  # type: ignore[assignment]
        self.forked = len(self.live) == 1
