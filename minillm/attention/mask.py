"""The attention mask, tile by tile: which query may see which key.

The mask of n_q queries and n_k keys is a rule, not a matrix. A query stands at a position among the keys; causal, it sees
itself and what came before; with a sliding window of w, only the last w of those. Written as a rule it costs no memory,
and it tells before loading that a whole tile is masked: with a causal mask that is half of all tiles.

    keys     0 1 2 3 4 5 6 7
    query 5  ■ ■ ■ ■ ■ ■ · ·      n_q = 3 queries are the last of n_k = 8 tokens: offset 5
    query 6  ■ ■ ■ ■ ■ ■ ■ ·
    query 7  ■ ■ ■ ■ ■ ■ ■ ■      with window 4, the first four ■ of this row are gone

Sliding window: Beltagy et al. 2020, arXiv:2004.05150; Jiang et al. 2023 (Mistral), arXiv:2310.06825.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from minillm.errors import MiniLLMError


@dataclass(frozen=True, slots=True)
class Mask:
    """The mask of n_q queries over n_k keys.

    causal: a query sees no key after its own position. window: it sees its own and the window - 1 keys before it.
    offset: the position of query 0 among the keys; by default the queries are the last n_q tokens, n_k - n_q. Negative
    where there are more queries than keys: the first ones stand before all keys, and see nothing.
    """

    n_q: int
    n_k: int
    causal: bool = True
    window: int | None = None
    offset: Any = None  # int; None: the queries are the last of the keys

    def __post_init__(self) -> None:
        if self.offset is None:
            object.__setattr__(self, "offset", self.n_k - self.n_q)
        if self.window is not None and (self.window < 1 or not self.causal):
            raise MiniLLMError(f"a window needs a causal mask and at least 1 key, found {self.window} and causal={self.causal}.")

    def visible(self, rows: slice, columns: slice) -> np.ndarray:  # (rows, columns) bool, True where the key is seen
        """Make the mask of one tile: queries rows.start … rows.stop against keys columns.start … columns.stop.

        Query i stands at position offset + i among the keys, wherever the tile begins. It sees key j where j ≤ position
        (causal) and j > position - window (with a window): the key at its own position is one of the window. Not causal:
        every key. A row may be False throughout.
        """
        # BEGIN SOLUTION ex=03.3
        position = self.offset + np.arange(rows.start, rows.stop)[:, None]
        key = np.arange(columns.start, columns.stop)[None, :]
        seen = np.full((len(position), key.shape[1]), True)
        if self.causal:
            seen &= key <= position
        if self.window is not None:
            seen &= key > position - self.window
        # END SOLUTION
        return seen

    def span(self, rows: slice) -> slice:
        """Find the keys that at least one of these queries sees, from the first to the last. All other tiles are skipped."""
        first, last = self.offset + rows.start, self.offset + rows.stop - 1  # positions of the first and last query
        start = 0 if self.window is None else max(0, first - self.window + 1)
        stop = self.n_k if not self.causal else min(self.n_k, last + 1)
        return slice(min(start, max(stop, 0)), max(stop, 0))

    def hides_all(self, rows: slice, columns: slice) -> bool:
        """Whether none of these queries sees any of these keys: the tile need not be loaded."""
        span = self.span(rows)
        return columns.start >= span.stop or columns.stop <= span.start

    def hides_nothing(self, rows: slice, columns: slice) -> bool:
        """Whether all of these queries see all of these keys: most tiles need no mask at all."""
        below = not self.causal or columns.stop - 1 <= self.offset + rows.start
        inside = self.window is None or columns.start > self.offset + rows.stop - 1 - self.window
        return below and inside

    def scores(self, scores: np.ndarray, rows: slice, columns: slice) -> np.ndarray:  # (rows, columns) -> (rows, columns)
        """Compute the scores of one tile, with -inf where the key may not be seen."""
        if self.hides_nothing(rows, columns):
            return scores
        return np.where(self.visible(rows, columns), scores, np.float32(-np.inf))

    def pairs(self) -> int:
        """Count the visible (query, key) pairs: the arithmetic of attention is proportional to them."""
        position = self.offset + np.arange(self.n_q)
        last = np.minimum(position, self.n_k - 1) if self.causal else np.full(self.n_q, self.n_k - 1)
        first = np.maximum(position - self.window + 1, 0) if self.window is not None else np.zeros_like(last)
        return int(np.maximum(last - first + 1, 0).sum())


def tiles(start: int, stop: int, size: int) -> list[slice]:  # -> slices of `size`, the last one shorter
    """Cut start … stop into pieces: the tail is a tile too."""
    return [slice(a, min(a + size, stop)) for a in range(start, stop, size)]
