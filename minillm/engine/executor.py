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

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
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


@dataclass(slots=True)
class ModelOutput(StepResult):
    """A StepResult, the deltas of answers, and the error of each request that failed; a failed request has nothing else."""

    deltas: list[Delta] = field(default_factory=list)
    failed: dict[int, Exception] = field(default_factory=dict)


class ModelExecutor:
    """A plan.Executor that runs plans through `transformer`, over pages allocated once.

    num_blocks, block_size, host_blocks: as the scheduler has them, so that its numbers are pages here; host_blocks = 0
    where nothing is swapped. Keys and values are kept as the transformer says (kv). eos_ids: tokens that end a text.
    The engine keeps `answers` and `adapters` for the requests that are under way.
    """

    def __init__(
        self,
        transformer: Transformer,
        num_blocks: int,
        block_size: int | None = None,
        host_blocks: int = 0,
        eos_ids: Collection[int] = (),
    ) -> None:
        self.transformer, self.ops, self.eos_ids = transformer, transformer.ops, eos_ids
        made, host = (transformer.config, transformer.kv), get_backend("numpy")  # memory of the host, whatever the model runs on
        self.store = new_store(*made, num_blocks, block_size, self.ops)
        self.host = new_store(*made, host_blocks, block_size, host) if host_blocks else None
        self.windows = Windows()
        self.answers: dict[int, list[Answer]] = {}  # by request
        self.adapters: dict[int, LoadedAdapter] = {}  # by request, of those that have one

    def execute(self, plan: Plan) -> ModelOutput:
        """Compute one step: swaps and copies, the forward pass, a token for each sequence that draws."""
        if plan.swaps_out:
            cast(PageStore, self.host).copy(plan.swaps_out, source=self.store)
        if plan.swaps_in:
            self.store.copy(plan.swaps_in, source=self.host)
        self.store.copy(plan.copies)
        outcome = ModelOutput()
        for share, found in self.forward(plan.shares, outcome):
            for sequence in share.draws:
                self.sample(sequence, found, outcome)
        outcome.deltas = [delta for delta in outcome.deltas if delta.request not in outcome.failed]
        for request in outcome.failed:
            for sequence in [s for s in outcome.tokens if s.request == request]:
                del outcome.tokens[sequence]
                outcome.finished.pop(sequence, None)
        return outcome

    def forward(self, shares: list[Share], outcome: ModelOutput) -> list[tuple[Share, np.ndarray]]:  # as next_token takes it
        """Compute the shares together; where that fails, each alone, and record those that fail alone."""
        if not shares:
            return []
        drawing = [share for share in shares if share.draws]
        try:
            leads, segments = [self.answers[s.sequence.request][0] for s in shares], [self.segment(share) for share in shares]
            logits = compute_logits(self.transformer, segments, leads)
            found = self.choose(drawing, logits) if drawing else ()
        except Exception as error:
            if len(shares) == 1:
                outcome.failed[shares[0].sequence.request] = error
                return []
            return [pair for share in shares for pair in self.forward([share], outcome)]
        for share, segment, lead in zip(shares, segments, leads, strict=True):
            self.windows.keep(segment.cache, share, lead)
        return list(zip(drawing, found, strict=True))

    def choose(self, shares: list[Share], logits: Array) -> Sequence[np.ndarray]:  # (n, vocab) -> for each: () token, or (vocab,)
        """Choose a token for each share that needs no more of its logits, all together; hand on the logits of the others."""
        answers = [[self.answers[s.request][s.index] for s in share.draws] for share in shares]
        if all(answer.greedy for draws in answers for answer in draws):
            return self.ops.download(self.ops.most_likely(logits))
        host = self.ops.download(logits)
        plain = [draws[0] if len(draws) == 1 and draws[0].plain else None for draws in answers]
        params, rngs = [answer.params if answer else None for answer in plain], [draws[0].rng for draws in answers]
        tokens = draw_all(logits, host, params, rngs, self.ops)
        return [row if token is None else np.array(token) for row, token in zip(host, tokens, strict=True)]

    def segment(self, share: Share) -> Segment:
        """Make the transformer's segment of a share. The table is read only: the scheduler owns its blocks."""
        table = BlockTable(self.store.pool)
        table.blocks, table.length = share.blocks, share.position + len(share.tokens)
        cache = self.store.cache_of(table, length=share.position)
        self.windows.hand_on(cache, share.sequence)
        adapter = self.adapters.get(share.sequence.request)
        return Segment(share.tokens, share.position, cache, "last" if share.draws else "none", adapter)

    def sample(self, sequence: SequenceId, found: np.ndarray, outcome: ModelOutput) -> None:  # token or (vocab,) logits
        """Sample one token for one sequence; an error here fails its request alone."""
        if sequence.request in outcome.failed:
            return
        try:
            delta = self.answers[sequence.request][sequence.index].next_token(found, self.eos_ids)
        except Exception as error:
            outcome.failed[sequence.request] = error
            return
        outcome.deltas.append(delta)
        outcome.tokens[sequence] = delta.token_ids[0]
        if delta.finish_reason:
            outcome.finished[sequence] = delta.finish_reason
