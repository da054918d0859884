"""Byte-pair encoding: the merge loop that every tokenizer here shares.

Training found the most frequent adjacent pairs and ordered them. Encoding replays that order: of all adjacent pairs that
are in the table, merge the one with the lowest priority value, the leftmost of equals, until none is left.

    l o w e r   --(l o)-->   lo w e r   --(lo w)-->   low e r   --(e r)-->   low er

Done by scanning, that is O(n²). Here a heap yields the next pair and a doubly linked list closes the gap. A merge makes at
most two new pairs, so n symbols cost at most 3n heap entries: O(n log n), also for a megabyte without a space.

Sennrich, Haddow and Birch, 2016, arXiv:1508.07909.
"""

import heapq
from collections.abc import Callable

DEAD = object()  # the right half of a merge: its place in the list stays, its symbol has moved left


def merge(symbols: list, find: Callable) -> list:  # n symbols -> at most n symbols
    """Merge adjacent symbols until no pair of neighbours can be.

    find((left, right)): (priority, merged symbol), or None where the pair does not merge. Lowest priority goes first.
    The argument is left as it was.
    """
    symbols = list(symbols)
    n = len(symbols)
    left, right = list(range(-1, n - 1)), list(range(1, n + 1))
    heap = [(found[0], i) for i in range(n - 1) if (found := find((symbols[i], symbols[i + 1])))]
    heapq.heapify(heap)
    while heap:
        priority, i = heapq.heappop(heap)
        j = right[i]
        if j == n or symbols[i] is DEAD:
            continue
        found = find((symbols[i], symbols[j]))
        if not found or found[0] != priority:  # a neighbour was merged away since this entry was pushed
            continue
        symbols[i], symbols[j] = found[1], DEAD
        right[i] = k = right[j]
        if k < n:
            left[k] = i
            if found := find((symbols[i], symbols[k])):
                heapq.heappush(heap, (found[0], i))
        h = left[i]
        if h >= 0 and (found := find((symbols[h], symbols[i]))):
            heapq.heappush(heap, (found[0], h))
    return [symbol for symbol in symbols if symbol is not DEAD]


class WordCache(dict):
    """Words already encoded. Text repeats itself: a few thousand words cover most of it, so most words never reach `merge`.

    Bounded in both directions: words longer than `longest` are not kept, and a full cache starts again from empty.
    """

    def __init__(self, encode_word: Callable, size: int = 50_000, longest: int = 64) -> None:
        self.encode_word, self.size, self.longest = encode_word, size, longest

    def __missing__(self, word: str) -> tuple[int, ...]:
        ids = tuple(self.encode_word(word))
        if len(word) <= self.longest:
            if len(self) >= self.size:
                self.clear()
            self[word] = ids
        return ids
