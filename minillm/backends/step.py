"""Attention of one forward pass: each segment remembers its new keys and values, and looks back at its own.

It is the only place of a step where sequences are looked at one by one: everything else runs over the tokens of all. This
is the plain way, a loop; a backend whose time goes into the loop rather than into attention brings a faster one of the
same calls (`backends/numba_/batch.py`).
"""

from collections.abc import Sequence
from typing import Any


class AttentionStep:
    """The attention of one call of `Transformer.forward`. ops: the backend; segments with their caches; spans: their tokens.

    First `indices`: what it must know of the caches on the device; `place`: the same, uploaded; `attend`: layer after layer.
    """

    def __init__(self, ops: Any, segments: Sequence[Any], spans: Sequence[slice]) -> None:
        self.ops, self.segments, self.spans = ops, segments, spans

    def indices(self) -> list:  # of (n,) int64 on the host
        """Make room in each cache for its new tokens; their indices are uploaded with the tokens themselves."""
        self.counts, found = [], []
        for segment in self.segments:
            own = segment.cache.indices(len(segment.tokens))
            self.counts.append(len(own))
            found += own
        return found

    def place(self, arrays: list) -> None:  # of (n,) int64 on the device, as `indices` gave them
        """Give each cache its uploaded indices."""
        uploaded = iter(arrays)
        for segment, count in zip(self.segments, self.counts, strict=True):
            segment.cache.place([next(uploaded) for _ in range(count)])

    def attend(  # int, (tokens, heads, d), (tokens, kv_heads, d) twice -> (tokens, heads, d)
        self, layer: int, q: Any, k: Any, v: Any
    ) -> Any:
        """Append k and v of each segment's new tokens to its cache, and attend for its queries."""
        looked_up = self.ops.empty(q.shape)
        for segment, span in zip(self.segments, self.spans, strict=True):
            segment.cache.append(layer, k[span], v[span])
            looked_up[span] = segment.cache.attend(self.ops, layer, q[span])
        return looked_up
