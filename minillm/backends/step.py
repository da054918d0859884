"""Attention of one forward pass: each segment remembers its new keys and values, and looks back at its own.

It is the only place of a step where sequences are looked at one by one: everything else runs over the tokens of all. This
is the plain way, a loop; a backend whose time goes into the loop rather than into attention brings a faster one of the
same two calls (`backends/numba_/batch.py`).
"""

import numpy as np


class AttentionStep:
    """For one call of `Transformer.forward`. ops: the backend; segments with their caches; spans: which tokens are whose."""

    def __init__(self, ops, segments, spans):
        self.ops, self.segments, self.spans = ops, segments, spans

    def attend(self, layer, q, k, v):  # int, (tokens, heads, d), (tokens, kv_heads, d) twice -> (tokens, heads, d)
        """Append k and v of each segment's new tokens to its cache, and answer its queries."""
        looked_up = np.empty_like(q)
        for segment, span in zip(self.segments, self.spans, strict=True):
            segment.cache.append(layer, k[span], v[span])
            looked_up[span] = segment.cache.attend(self.ops, layer, q[span])
        return looked_up
