"""Eviction policies: which idle leaf is worth least? A policy gives each leaf a score; the smallest is evicted first.

    LRU         when it was last used             what was not used for long will not be used soon
    LFU         how often it was used             a system prompt outlives a burst of unrelated prompts
    GreedyDual  what its loss costs, and its age  costly and popular pages stay longer, but not without end
    Belady      when it is used next              needs the future: no policy does better, so it is the ceiling

Belady, 1966, IBM Systems Journal 5(2). GreedyDual-Size-Frequency: Cherkasova, 1998, HP Labs report 98-69.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any


class LRU:
    """Least recently used: the default."""

    age: float = 0.0  # a leaf keeps the one it was last used at: of use to policies that let old fame fade

    def score(self, node: Any) -> Any:  # Node -> what sorts
        return node.last_use

    def evicted(self, score: Any) -> None:
        """Called after a leaf of this score was evicted."""


class LFU(LRU):
    """Least frequently used; of equals the least recent."""

    def score(self, node: Any) -> Any:
        return node.uses, node.last_use


class GreedyDual(LRU):
    """Cost-aware: what is expensive to compute again and often used stays longer, but not without end.

    age: the highest score that was ever evicted. A leaf starts from the age of its last use. So a new leaf is level with the last
    victim, and one that is no longer used is overtaken, since its own start stays where it was.
    even: pages of context at which the attention of a page costs as much as its matrix products.
    """

    def __init__(self, even: float) -> None:
        self.even = even

    def score(self, node: Any) -> float:
        """Score a leaf by what is lost with its last page, the only one that goes now; the lowest score is evicted first.

        node.pages are the leaf's own pages, node.start pages stand above it. node.uses says how often it was used, node.age what
        self.age was at its last use. Unit: the matrix products of one page. Attention of a page costs in proportion to the
        pages before it, and as much as the products at `even` of them. Each use is worth computing the page once.
        """
        # BEGIN SOLUTION ex=05.4
        before = node.start + len(node.pages) - 1
        cost = 1 + before / self.even
        return node.age + node.uses * cost
        # END SOLUTION

    def evicted(self, score: float) -> None:
        self.age = max(self.age, score)  # a page above the last victim is cheaper, and may score less


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
