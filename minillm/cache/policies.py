"""Eviction policies: which idle leaf is worth least? A policy gives each leaf a score; the smallest is evicted first.

    LRU         when it was last used             what was not used for long will not be used soon
    LFU         how often it was used             a system prompt outlives a burst of unrelated prompts
    GreedyDual  age + uses × cost of recomputing  costly and popular pages stay longer, but not without end
    Belady      when it is used next              needs the future: no policy does better, so it is the ceiling

Belady, 1966, IBM Systems Journal 5(2). GreedyDual-Size-Frequency: Cherkasova, 1998, HP Labs report 98-69.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any

MOST_AGES = 1 << 16  # of GreedyDual: those further back count as the oldest that is kept


class LRU:
    """Least recently used: the default."""

    def score(self, node: Any) -> Any:  # Node -> what sorts
        return node.last_use

    def evicted(self, score: Any) -> None:
        """Called after a leaf of this score was evicted."""


class LFU(LRU):
    """Least frequently used; of equals the least recent."""

    def score(self, node: Any) -> Any:
        return node.uses, node.last_use


class GreedyDual(LRU):
    """Cost-aware: uses × cost of a page, plus the age when it was last used; the age rises to the score of each victim.

    So a new page starts level with the last victim, and old popularity fades. Computing a page after p others costs
    1 + p / even: even is the pages of context at which attention costs as much as the matrix products. A leaf that lost its
    end is no younger for it, so ages are kept with the clock of the cache, by which `last_use` counts.
    """

    def __init__(self, even: float) -> None:
        self.even, self.clock = even, 0
        self.since, self.ages = [0], [0.0]  # from this clock on the age was this; both rise

    def score(self, node: Any) -> Any:
        self.clock = node.ticket
        depth = node.start + len(node.pages) - 1
        age = self.ages[max(0, bisect_right(self.since, node.last_use) - 1)]
        return age + node.uses * (1 + depth / self.even)

    def evicted(self, score: Any) -> None:
        if score > self.ages[-1]:  # a page above the last victim is cheaper, and may score less
            self.since.append(self.clock)
            self.ages.append(score)
        if len(self.ages) > MOST_AGES:
            del self.since[: MOST_AGES // 2], self.ages[: MOST_AGES // 2]


class Belady(LRU):
    """Evict the page whose next use is latest, or never comes. For replays: requests, as lists of page ids, in order.

    now: number of the request being served; the replay advances it. One page is one token here.
    """

    def __init__(self, requests: Iterable[Sequence[int]]) -> None:
        self.now = 0
        self.wanted: dict[int, list[int]] = {}  # page id -> numbers of the requests that use it, rising
        for number, pages in enumerate(requests):
            for page in pages:
                self.wanted.setdefault(page, []).append(number)

    def score(self, node: Any) -> Any:
        numbers = self.wanted.get(node.tokens[-1], ())
        later = bisect_right(numbers, self.now)
        return -numbers[later] if later < len(numbers) else float("-inf")
