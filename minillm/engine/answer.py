"""What one answer carries from token to token: its random numbers, its text so far, and what it has used.

None of it is in the batch. An answer draws from a generator of its own, seeded by (seed, index), so the same request says
the same whatever runs beside it, and its n answers differ. It survives preemption: the pages go, this stays.
"""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from minillm.errors import RequestError
from minillm.model.candidates import sample
from minillm.model.generate import SequenceState
from minillm.model.logprobs import TokenLogprob, token_logprob
from minillm.model.params import SamplingParams
from minillm.model.sampling import NOT_FINITE, distribution
from minillm.speculative.proposer import Draft
from minillm.speculative.verify import accept_or_replace, one_hot


@dataclass(frozen=True, slots=True)
class Delta:
    """The new part of one answer after a step. text may be empty: half a character, or a possible beginning of a stop string.

    finish_reason: None while it goes on; "stop", "length"; or "error", with the exception in `error`, for every answer of
    the request that was not done. stop_reason: the stop string or stop token that ended it. prompt_logprobs: with the first
    token of an answer, where they were asked for.
    """

    request: int
    index: int
    text: str
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None
    error: Exception | None = None
    stop_reason: str | int | None = None
    prompt_logprobs: list[TokenLogprob | None] | None = None


def joined(one: Delta, other: Delta) -> Delta:
    """Join two deltas of an answer that follow each other."""
    return replace(
        other, text=one.text + other.text, token_ids=one.token_ids + other.token_ids, logprobs=one.logprobs + other.logprobs,
        prompt_logprobs=one.prompt_logprobs,
    )  # fmt: skip


def sampling_state(
    params: SamplingParams, index: int, prompt: list[int], vocab_size: int
) -> tuple[np.random.Generator, np.ndarray | None]:  # used: (vocab_size,) bool
    """Make the sampling state of answer `index`, shared with no other answer: a random generator, and the tokens used so far.

    The generator is decided by (params.seed, index) and nothing else: np.random.default_rng(seed) for answer 0, as in
    LLM.generate, and for any other the one of np.random.SeedSequence(seed, spawn_key=(index,)). Without a seed (None) each
    is random. used[token]: does the token occur in the prompt (ids)? None where it is not needed: repetition_penalty 1.
    """
    key = (index,) if index else ()
    rng = np.random.default_rng(np.random.SeedSequence(params.seed, spawn_key=key))
    used = None
    if params.repetition_penalty != 1.0:
        used = np.zeros(vocab_size, bool)
        used[prompt] = True
    return rng, used


@dataclass
class Answer(SequenceState):
    """One of a request's n answers under way. context: tokens of prompt and answer together, at most."""

    index: int = 0
    context: int = 0
    vocab_size: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.rng, self.used = sampling_state(self.params, self.index, self.prompt_token_ids, self.vocab_size)

    @property
    def greedy(self) -> bool:
        """Whether it needs only the likeliest token of the logits. Then they need not leave the device."""
        return self.params.temperature == 0 and self.unchanged

    @property
    def plain(self) -> bool:
        """Whether its next token is a draw from the logits as they are, and nothing else is asked of them."""
        return self.params.temperature > 0 and self.unchanged

    @property
    def unchanged(self) -> bool:
        early = len(self.token_ids) < self.params.min_tokens
        return self.params.logprobs is None and not (self.params.changes_logits or early)

    def next_tokens(  # (1 + drafts, vocab) logits, or (1 + drafts,) tokens
        self, found: np.ndarray, draft: Draft, eos_ids: Collection[int]
    ) -> Delta:
        """Verify a draft: keep its tokens up to the first that is rejected, and add one more. An end within it is the end.

        A token counts as used as soon as it is kept, so that penalties are those of a text that grew token by token.
        """
        delta = self.next_token(found[0], eos_ids, *draft.at(0))
        for i in range(1, len(found)):
            if delta.finish_reason or delta.token_ids[-1] != draft.tokens[i - 1]:
                break
            delta = joined(delta, self.next_token(found[i], eos_ids, *draft.at(i)))
        return delta

    def next_token(
        self, found: np.ndarray, eos_ids: Collection[int], draft: int | None = None, q: np.ndarray | None = None
    ) -> Delta:  # (vocab,) logits, or () a token, -1: none
        """Sample the next token. The cost depends on the vocabulary, never on the length of the text so far.

        draft: a guess at it, drawn from q, (vocab,), or not drawn at all: it is what comes out as often as the target says it.
        """
        if np.ndim(found) == 0:
            if found < 0:
                raise RequestError(NOT_FINITE.format("no finite number"))
            return self.delta(int(found), [], eos_ids)
        seen = () if self.used is None else np.flatnonzero(self.used)
        shaped: dict[str, Any] = {"counts": self.counts, "forbidden": self.forbidden(eos_ids)}
        if draft is None:
            token = sample(found, self.params, self.rng, seen, **shaped)
        else:
            p = distribution(found, self.params, seen, **shaped)
            token = accept_or_replace(p, one_hot(draft, len(p)) if q is None else q, draft, self.rng)
        if self.used is not None:
            self.used[token] = True
        logprobs = [] if self.params.logprobs is None else [token_logprob(found, token, self.params.logprobs)]
        return self.delta(token, logprobs, eos_ids)

    def delta(self, token: int, logprobs: list[TokenLogprob], eos_ids: Collection[int]) -> Delta:
        """Accept a token, and return what it adds."""
        self.logprobs += logprobs
        text = self.accept(token, eos_ids, self.context - len(self.prompt_token_ids))
        prompt = self.prompt_logprobs if len(self.token_ids) == 1 else None
        return Delta(self.request, self.index, text, [token], logprobs, self.finish_reason, None, self.stop_reason, prompt)
