"""The executor with a model: compute a plan on arrays, and sample a token for each sequence that wants one.

    plan ─▶ swaps out, swaps in, copies ─▶ a segment for each share ─▶ one forward ─▶ logits ─▶ a token each ─▶ outcome
              whole blocks, in order         its cache: the share's blocks              only where one is drawn

It owns the memory and decides nothing. A plan names blocks by number; here a number becomes a page of the store. A cache
lives for one step: it is a view of the pages that the plan names, so a sequence that was preempted, moved or forked needs
no repair, only other numbers. How a token is sampled (temperature, seed) and what text it adds: see answer.py.

A step downloads one array from the device: the likeliest token of each row, where no answer needs more; else rows of logits, from
which tokens are drawn for all sequences at once (draws.py).
(The log-probabilities of a prompt, where a request wants them, take more: a piece of logits at a time, logprobs.py.)

An error of one request must not end the others. Where a step fails, its shares are computed again one by one. That is safe,
since keys and values are written to the same slots as before, and only requests that fail alone are aborted.
"""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import cast

import numpy as np

from minillm.backends import get_backend
from minillm.cache.block_table import BlockTable
from minillm.cache.kinds import new_store
from minillm.cache.paged import PageStore
from minillm.cache.protocol import Array
from minillm.engine.answer import Answer, Delta
from minillm.engine.windows import Windows
from minillm.model.adapters import LoadedAdapter
from minillm.model.draws import draw_all
from minillm.model.generate import compute_logits
from minillm.model.transformer import Segment, Transformer
from minillm.scheduler.plan import Plan, SequenceId, Share, StepResult
from minillm.speculative.adaptive import Adaptive, Lookahead
from minillm.speculative.proposer import Draft, Proposer, Text

NOTHING = Draft()


@dataclass(slots=True)
class ModelOutput(StepResult):
    """A StepResult, the deltas of answers, and the error of each request that failed; a failed request has nothing else."""

    deltas: list[Delta] = field(default_factory=list)
    failed: dict[int, Exception] = field(default_factory=dict)


class ModelExecutor:
    """A plan.Executor that runs plans through `transformer`, over pages allocated once.

    num_blocks, block_size, host_blocks: as the scheduler has them, so that its numbers are pages here; host_blocks = 0
    where nothing is swapped. Keys and values are kept as the transformer says (kv). eos_ids: tokens that end a text.
    proposer: drafts ahead of each text, as many tokens as `lookahead` says.
    The engine keeps `answers` and `adapters` for the requests that are under way.
    """

    def __init__(
        self,
        transformer: Transformer,
        num_blocks: int,
        block_size: int | None = None,
        host_blocks: int = 0,
        eos_ids: Collection[int] = (),
        proposer: Proposer | None = None,
        lookahead: Lookahead | None = None,
    ) -> None:
        self.transformer, self.ops, self.eos_ids = transformer, transformer.ops, eos_ids
        made, host = (transformer.config, transformer.kv), get_backend("numpy")  # memory of the host, whatever the model runs on
        self.store = new_store(*made, num_blocks, block_size, self.ops)
        self.host = new_store(*made, host_blocks, block_size, host) if host_blocks else None
        self.windows = Windows()
        self.answers: dict[int, list[Answer]] = {}  # by request
        self.adapters: dict[int, LoadedAdapter] = {}  # by request, of those that have one
        self.proposer, self.lookahead = proposer, lookahead or Adaptive()
        self.drafts: dict[SequenceId, Draft] = {}  # what was proposed and is not verified yet

    def execute(self, plan: Plan) -> ModelOutput:
        """Compute one step: swaps and copies, the forward pass, a token for each sequence that draws."""
        if plan.swaps_out:
            cast(PageStore, self.host).copy(plan.swaps_out, source=self.store)
        if plan.swaps_in:
            self.store.copy(plan.swaps_in, source=self.host)
        self.store.copy(plan.copies)
        begin = time.perf_counter()
        outcome = ModelOutput()
        for share, found in self.forward(plan.shares, outcome):
            for sequence in share.draws:
                self.sample(sequence, share, found, outcome)
        outcome.deltas = [delta for delta in outcome.deltas if delta.request not in outcome.failed]
        for request in outcome.failed:
            for sequence in [s for s in outcome.tokens if s.request == request]:
                del outcome.tokens[sequence]
                outcome.finished.pop(sequence, None)
        if self.proposer is not None:
            if all(len(share.tokens) == share.drafts + 1 for share in plan.shares):
                self.lookahead.stepped(plan.tokens, time.perf_counter() - begin)
            self.propose(self.proposer, outcome)
        return outcome

    def forward(self, shares: list[Share], outcome: ModelOutput) -> list[tuple[Share, np.ndarray]]:  # as next_tokens takes it
        """Compute the shares together; where that fails, each alone, and record those that fail alone."""
        if not shares:
            return []
        drawing = [share for share in shares if share.draws]
        try:
            leads, segments = [self.answers[s.sequence.request][0] for s in shares], [self.segment(share) for share in shares]
            logits = compute_logits(self.transformer, segments, leads, self.watch(shares))
            found = self.choose(drawing, logits) if drawing else []
        except Exception as error:
            if len(shares) == 1:
                outcome.failed[shares[0].sequence.request] = error
                return []
            return [pair for share in shares for pair in self.forward([share], outcome)]
        for share, segment, lead in zip(shares, segments, leads, strict=True):
            self.windows.keep(segment.cache, share, lead)
        return list(zip(drawing, found, strict=True))

    def watch(self, shares: list[Share]) -> Callable[[Array, list[slice]], None] | None:
        """Show the target's vectors to a proposer that wants to see them."""
        if (observe := getattr(self.proposer, "observe", None)) is None:
            return None

        def show(x: Array, slices: list[slice]) -> None:
            for share, own in zip(shares, slices, strict=True):
                observe(share.sequence, share.position, x[own])

        return show

    def choose(self, shares: list[Share], logits: Array) -> list[np.ndarray]:  # (n, vocab) -> for each share
        """Choose tokens for shares that need no more of their logits, all together; hand on the logits of the others.

        A share has a row, and one for each of its drafts: (rows,) tokens or (rows, vocab) logits.
        """
        answers = [[self.answers[s.request][s.index] for s in share.draws] for share in shares]
        rows = [slice(*ends) for ends in pairwise(accumulate((share.drafts + 1 for share in shares), initial=0))]
        if all(answer.greedy for draws in answers for answer in draws):
            tokens = self.ops.download(self.ops.most_likely(logits))
            return [tokens[own] for own in rows]
        host, params, rngs = self.ops.download(logits), [], []
        for share, draws in zip(shares, answers, strict=True):
            plain = len(draws) == 1 and draws[0].plain and not share.drafts
            params += [draws[0].params if plain else None] * (share.drafts + 1)
            rngs += [draws[0].rng] * (share.drafts + 1)
        drawn = draw_all(logits, host, params, rngs, self.ops)
        return [host[own] if drawn[own.start] is None else np.array(drawn[own]) for own in rows]

    def segment(self, share: Share) -> Segment:
        """Make the transformer's segment of a share. The table is read only: the scheduler owns its blocks."""
        table = BlockTable(self.store.pool)
        table.blocks, table.length = share.blocks, share.position + len(share.tokens)
        cache = self.store.cache_of(table, length=share.position)
        self.windows.hand_on(cache, share.sequence)
        adapter = self.adapters.get(share.sequence.request)
        logits = "all" if share.drafts else "last" if share.draws else "none"
        return Segment(share.tokens, share.position, cache, logits, adapter)

    def sample(self, sequence: SequenceId, share: Share, found: np.ndarray, outcome: ModelOutput) -> None:
        """Sample for one sequence, from what `choose` gave its share; an error here fails its request alone."""
        if sequence.request in outcome.failed:
            return
        try:
            draft = self.drafts.pop(sequence, NOTHING).cut(share.drafts)
            delta = self.answers[sequence.request][sequence.index].next_tokens(found, draft, self.eos_ids)
            if share.drafts:
                self.windows.truncate(sequence, share.position + len(delta.token_ids))
                self.lookahead.verified(sequence, min(len(delta.token_ids), share.drafts), len(delta.token_ids) - 1)
        except Exception as error:
            outcome.failed[sequence.request] = error
            return
        outcome.deltas.append(delta)
        outcome.tokens[sequence] = delta.token_ids
        if delta.finish_reason:
            outcome.finished[sequence] = delta.finish_reason

    def propose(self, proposer: Proposer, outcome: ModelOutput) -> None:
        """Draft what may follow the text of each sequence that goes on: the next step verifies it."""
        begin = time.perf_counter()
        if not (going := [sequence for sequence in outcome.tokens if sequence not in outcome.finished]):
            return
        answers = [self.answers[s.request][s.index] for s in going]
        texts = [Text(s, [*a.prompt_token_ids, *a.token_ids], a.params) for s, a in zip(going, answers, strict=True)]
        drafts = proposer.propose(texts, self.lookahead.most(going))
        self.lookahead.drafted(sum(len(draft.tokens) for draft in drafts), time.perf_counter() - begin)
        self.drafts.update(zip(going, drafts, strict=True))
        outcome.drafts = {sequence: draft.tokens for sequence, draft in zip(going, drafts, strict=True) if draft.tokens}

    def forget(self, request: int) -> None:
        """Drop what is kept of a request: it is done."""
        answers = self.answers.pop(request)
        self.adapters.pop(request, None)
        self.windows.drop(request)
        for sequence in (SequenceId(request, i) for i in range(len(answers))):
            self.drafts.pop(sequence, None)
            self.lookahead.forget(sequence)
            if self.proposer is not None:
                self.proposer.forget(sequence)
