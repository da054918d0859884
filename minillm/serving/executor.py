"""The executor with a model: it carries out a plan on arrays, and says which token each sequence drew.

    plan ─▶ swaps out, swaps in, copies ─▶ a segment for each share ─▶ one forward ─▶ logits ─▶ choose ─▶ result
              whole blocks, in order         its cache: the share's blocks            only where a token is drawn

It owns the memory and decides nothing. A plan names blocks by number; here a number becomes a page of the store. A cache
lives for one step: it is a view of the pages that the plan names, so a sequence that was preempted, moved or forked needs
no repair, only other numbers. What a token is drawn by (temperature, stop strings, text) is the caller's: `choose`.

One request must not take the others with it. Where a step fails, its shares are computed again one by one. That is safe,
since keys and values are written to the same slots as before, and only requests that fail alone are given up.
"""

from dataclasses import dataclass, field

from minillm.cache.block_table import BlockTable
from minillm.cache.paged import PagedCache, PageStore
from minillm.model.transformer import Segment
from minillm.serving.plan import Result


@dataclass(slots=True)
class Outcome(Result):
    """A Result, and the error of each request that could not go on. Such a request has no tokens in it."""

    failed: dict[int, Exception] = field(default_factory=dict)


class ModelExecutor:
    """Runs plans through `transformer`, over pages taken once.

    num_blocks, block_size, host_blocks: as the scheduler has them, so that its numbers are pages here; host_blocks = 0
    where nothing is swapped. dtype: of keys and values, the transformer's own by default. choose(sequence, logits
    (vocab,)) -> token, reason to finish or None.
    """

    def __init__(self, transformer, choose, num_blocks, block_size=16, host_blocks=0, dtype=None):
        dtype = dtype or transformer.kv_dtype
        self.transformer, self.choose = transformer, choose
        self.store = PageStore.of(transformer.config, num_blocks, block_size, dtype=dtype)
        self.adapters = {}  # request -> adapters.LoadedAdapter, of those that have one; the engine keeps it
        self.host = PageStore.of(transformer.config, host_blocks, block_size, dtype=dtype) if host_blocks else None

    def execute(self, plan):  # Plan -> Outcome
        """Carry out one step."""
        if plan.swaps_out:
            self.host.copy(plan.swaps_out, source=self.store)
        if plan.swaps_in:
            self.store.copy(plan.swaps_in, source=self.host)
        self.store.copy(plan.copies)
        outcome = Outcome()
        for share, logits in self.forward(plan.shares, outcome):
            for sequence in share.draws:
                self.draw(sequence, logits, outcome)
        for request in outcome.failed:
            for sequence in [s for s in outcome.tokens if s.request == request]:
                del outcome.tokens[sequence]
                outcome.finished.pop(sequence, None)
        return outcome

    def forward(self, shares, outcome):  # -> [(share, (vocab,) logits)], for shares that draw
        """All shares in one forward; where it raises, each alone, and who fails alone has failed."""
        if not shares:
            return []
        try:
            rows = self.transformer.forward([self.segment(share) for share in shares])
        except Exception as error:
            if len(shares) == 1:
                outcome.failed[shares[0].sequence.request] = error
                return []
            return [pair for share in shares for pair in self.forward([share], outcome)]
        return [(share, row[-1]) for share, row in zip(shares, rows, strict=True) if share.draws]

    def segment(self, share):  # Share -> Segment
        """A share as the transformer takes it. The table is read only: who owns its blocks is the scheduler's business."""
        table = BlockTable(self.store.pool)
        table.blocks, table.length = share.blocks, share.position + len(share.tokens)
        cache = PagedCache(self.store, table)
        cache.lengths = [share.position] * len(cache.lengths)
        adapter = self.adapters.get(share.sequence.request)
        return Segment(share.tokens, share.position, cache, "last" if share.draws else "none", adapter)

    def draw(self, sequence, logits, outcome):
        """One token for one sequence; what goes wrong here is its request's alone."""
        if sequence.request in outcome.failed:
            return
        try:
            token, reason = self.choose(sequence, logits)
        except Exception as error:
            outcome.failed[sequence.request] = error
            return
        outcome.tokens[sequence] = token
        if reason:
            outcome.finished[sequence] = reason
