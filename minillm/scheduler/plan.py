"""The messages between scheduler and executor: a plan for one step, and its result. No arrays, no clock.

    scheduler.schedule() ─▶ Plan ─▶ executor.execute(plan) ─▶ StepResult ─▶ scheduler.update(plan, result) ─▶ and again

An executor with a transformer takes milliseconds for a plan; one with a cost model takes a formula. Neither knows why a
sequence is in the plan, and the scheduler does not know which of the two it talks to: so a simulator can run the very
scheduler that serves.

A *request* is what a user sent. A *sequence* is one answer in the making: a request with n = 3 becomes three of them,
which share the blocks of their prompt. A sequence is named (request, index).
"""

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable


class SequenceId(NamedTuple):
    """A request, and the index of one of its n answers."""

    request: int
    index: int  # type: ignore[assignment]  # tuple.index gives way


@dataclass(slots=True)
class Share:
    """One sequence's share of a step: tokens to feed, and where their keys and values go.

    position: of the first token; so many are computed and in the blocks already. blocks: the whole block table, with room
    for the new tokens. draws: sequences that draw a token from the logits of the last one. None of a prompt's chunks but
    the last draws any; the end of a prompt draws one for each of the request's n answers; a decode step draws its own.
    drafts: so many tokens at the end are guesses, to be verified: what comes out is those that are kept, and one more.
    """

    sequence: SequenceId
    tokens: list[int]
    position: int
    blocks: list[int]
    draws: tuple[SequenceId, ...] = ()
    drafts: int = 0


@dataclass(slots=True)
class Plan:
    """One step. An executor carries out swaps_out, swaps_in, copies, each in order, before it computes the shares.

    The pairs are (from block, to block): swaps_out from the device's pool to the host's, swaps_in back, copies within the
    device's (copy-on-write). preempted: sequences that lost their place in this step; the scheduler brings them back.
    """

    shares: list[Share] = field(default_factory=list)
    swaps_out: list[tuple[int, int]] = field(default_factory=list)
    swaps_in: list[tuple[int, int]] = field(default_factory=list)
    copies: list[tuple[int, int]] = field(default_factory=list)
    preempted: list[SequenceId] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Tokens that the step computes, over all shares."""
        return sum(len(share.tokens) for share in self.shares)


@dataclass(slots=True)
class StepResult:
    """The tokens a step sampled for each sequence in the draws of its plan; and why some end with it ("stop", "length").

    tokens: one each; of a share with drafts those that were kept, and one more. drafts: what is proposed to follow them, if
    anything. The next step verifies as much of it as it has room for.
    """

    tokens: dict[SequenceId, list[int]] = field(default_factory=dict)
    finished: dict[SequenceId, str] = field(default_factory=dict)
    drafts: dict[SequenceId, list[int]] = field(default_factory=dict)


@runtime_checkable
class Executor(Protocol):
    """Turns a plan into a result: a model on real time (engine/executor.py), a cost model on virtual time."""

    def execute(self, plan: Plan) -> StepResult:
        """Compute one step. An error of one request belongs into the result; raise only what stops all requests."""
