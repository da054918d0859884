"""The limits of a scheduler, and admission control: refuse at once a request that no wait could ever help.

A request that is admitted must be able to finish when it runs alone: with all seats, all blocks, whole steps. Then one
running request can always continue, if need be after all others were preempted, and there is no deadlock.

    blocks of a request alone:   shared + n · (⌈(prompt + max_tokens - 1) / size⌉ - shared),   shared = ⌊prompt / size⌋

The token drawn last is never fed, hence the - 1; full blocks of the prompt are common to all n answers, the rest is not.
"""

import math
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING

from minillm.errors import RequestError

if TYPE_CHECKING:
    from minillm.scheduler.request import Request

POLICIES = ("static", "orca", "vllm", "chunked")
ORDERS = ("fcfs", "priority", "fair", "cache")
PREEMPTIONS = ("recompute", "swap")
PREFIXES = (None, "hash", "radix")


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """The resources of a scheduler, and its policies.

    num_blocks × block_size tokens of keys and values on the device, host_blocks in the host's memory to swap to.
    max_sequences: answers that run at once. max_tokens_per_step: at least as many, so that every decode finds room.
    watermark: blocks left free at admission, so that running sequences can grow; None: a hundredth of the pool.
    policy, order, preemption, prefix: see policies, order, preemption, cache/prefix_cache.
    patience: requests that may overtake the one that waits longest; steps of prefill in a row while a decode waits.
    context_length: tokens that the model can see; None: no limit. Errors: RequestError.
    """

    num_blocks: int
    block_size: int = 16
    host_blocks: int = 0
    max_sequences: int = 16
    max_tokens_per_step: int = 512
    watermark: int | None = None
    policy: str = "chunked"
    order: str = "fcfs"
    preemption: str = "recompute"
    prefix: str | None = None
    patience: int = 64
    context_length: int | None = None

    def __post_init__(self) -> None:
        for name, known in (("policy", POLICIES), ("order", ORDERS), ("preemption", PREEMPTIONS), ("prefix", PREFIXES)):
            if getattr(self, name) not in known:
                raise RequestError(f"{name} must be one of {', '.join(map(str, known))}; found {getattr(self, name)!r}.")
        for name, least in (("max_sequences", 1), ("host_blocks", 0), ("patience", 0)):
            if getattr(self, name) < least:
                raise RequestError(f"{name} must be at least {least:,}, found {getattr(self, name):,}.")
        if self.max_tokens_per_step < self.max_sequences:
            raise RequestError(
                f"max_tokens_per_step must be at least max_sequences = {self.max_sequences:,}, since each that decodes "
                f"takes a token; found {self.max_tokens_per_step:,}."
            )


def max_blocks(request: "Request", block_size: int) -> int:
    """Count the blocks that a request holds at its largest, when no answer ends early."""
    prompt, longest = len(request.prompt), len(request.prompt) + request.max_tokens - 1
    if request.max_tokens == 1:  # all answers end with the prompt: none writes a block of its own
        return -(-prompt // block_size)
    shared = prompt // block_size
    return shared + request.n * (-(-longest // block_size) - shared)


def longest_answer(prompt: int, n: int, config: SchedulerConfig) -> int:  # tokens
    """Find the largest max_tokens with which a prompt and its n answers fit: the inverse of max_blocks. 0: none fits."""
    shared, context = prompt // config.block_size, config.context_length
    if -(-prompt // config.block_size) > config.num_blocks:
        return 0
    blocks = shared + (config.num_blocks - shared) // n  # of each answer, those of the prompt included
    longest = max(1, blocks * config.block_size - prompt + 1)  # one token costs no block
    return longest if context is None else max(0, min(longest, context - prompt))


def check_admission(request: "Request", config: SchedulerConfig) -> None:
    """Admission control: raise RequestError, with what was found and what would fit, if a request could never finish."""
    prompt, total = len(request.prompt), len(request.prompt) + request.max_tokens
    for name in ("salt", "user"):
        try:
            hash(getattr(request, name))
        except TypeError as error:  # "unhashable type: 'list'"
            raise RequestError(f"{name} must be hashable, as it is looked up by: {error}.") from None
    if not isinstance(request.priority, Real) or math.isnan(request.priority):
        raise RequestError(f"priority must be a number, the smaller the more urgent; found {request.priority!r}.")
    if not prompt:
        raise RequestError("the prompt is empty: a model needs at least 1 token to go on from, found 0.")
    for name in ("max_tokens", "n"):
        if getattr(request, name) < 1:
            raise RequestError(f"{name} must be at least 1, found {getattr(request, name):,}.")
    if request.n > config.max_sequences:
        raise RequestError(f"n = {request.n:,} answers are asked for, {config.max_sequences:,} sequences can run at once.")
    if config.context_length is not None and total > config.context_length:
        raise RequestError(
            f"prompt and answer have {prompt:,} + {request.max_tokens:,} = {total:,} tokens, "
            f"the model's context holds {config.context_length:,}."
        )
    if config.policy != "chunked" and prompt > config.max_tokens_per_step:
        raise RequestError(
            f"prompt has {prompt:,} tokens, a step takes {config.max_tokens_per_step:,}, "
            f"and policy {config.policy!r} does not cut prompts (policy 'chunked' does)."
        )
    if (blocks := max_blocks(request, config.block_size)) > config.num_blocks:
        raise RequestError(
            f"the request needs up to {blocks:,} blocks of {config.block_size:,} tokens, the pool has {config.num_blocks:,}."
        )
