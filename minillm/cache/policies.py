"""Which idle leaf is worth least? A policy gives each a score when it falls idle; the smallest goes first.

    LRU         when it was last used             what was not wanted for long is not wanted soon
    LFU         how often it was used             a system prompt outlives a burst of strangers
    GreedyDual  age + uses × cost of recomputing  what is dear and popular may stay longer, but not for ever
    Belady      when it is wanted next            needs the future: no policy does better, so it is the ceiling

Belady, 1966, IBM Systems Journal 5(2). GreedyDual-Size-Frequency: Cherkasova, 1998, HP Labs report 98-69.
"""

from bisect import bisect_right


class LRU:
    """Least recently used: the default."""

    def score(self, node):
        return node.last_use

    def evicted(self, score):
        """A leaf of this score has gone."""


class LFU(LRU):
    """Least frequently used; of equals the least recent."""

    def score(self, node):
        return node.uses, node.last_use


class GreedyDual(LRU):
    """Cost-aware: uses × cost of a page, plus an age that rises to the score of each victim.

    So a newcomer starts level with what was thrown out last, and old fame fades. Computing a page after p others costs
    1 + p / even: even is the pages of context at which attention costs as much as the matrix products.
    """

    def __init__(self, even):
        self.even, self.age = even, 0.0

    def score(self, node):
        depth = node.start + len(node.pages) - 1
        return self.age + node.uses * (1 + depth / self.even)

    def evicted(self, score):
        self.age = score


class Belady(LRU):
    """Evict what is wanted again last, or never. For replays: requests, as lists of page ids (one token a page), in order.

    now: number of the request being served; whoever replays moves it on.
    """

    def __init__(self, requests):
        self.now, self.wanted = 0, {}  # page id -> numbers of the requests that use it, rising
        for number, pages in enumerate(requests):
            for page in pages:
                self.wanted.setdefault(page, []).append(number)

    def score(self, node):
        numbers = self.wanted.get(node.tokens[-1], ())
        later = bisect_right(numbers, self.now)
        return -numbers[later] if later < len(numbers) else float("-inf")
