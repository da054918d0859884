"""Prompt lookup: what followed the last words the time before, is likely to follow them again. A draft that costs nothing.

    … the quick brown fox jumps over the dog. Then the quick brown ▌
          └───────────┘ └─────────────┘           └───────────┘
          seen before    is the draft              the last 3 tokens

An answer that quotes its prompt (a summary, an edit, code) is full of such places; a story has few. Then there is no draft, and a
step is a plain one. Saxena 2023, "Prompt lookup decoding"; Yang et al. 2023, arXiv:2304.04487 (LLMA).
"""

from collections.abc import Hashable, Sequence

from minillm.speculative.proposer import Draft, Text

LONGEST, SHORTEST = 4, 2  # tokens that must agree: of one alone, most words were seen before


def lookup(tokens: Sequence[int], most: int, longest: int = LONGEST, shortest: int = SHORTEST) -> list[int]:
    """Find the last n tokens earlier in the text, n = longest … shortest; return what followed there, at most so many tokens.

    The longest match counts, and of several of its length the latest. Nothing where even the shortest is new. What follows a
    match may run into the end of the text itself: then it is shorter.
    """
    text = list(tokens)
    for n in range(min(longest, len(text) - 1), shortest - 1, -1):
        for start in range(len(text) - n - 1, -1, -1):
            if text[start : start + n] == text[len(text) - n :]:
                return text[start + n : start + n + most]
    return []


class NgramIndex:
    """`lookup` of a growing text, in constant time a token: where each n-gram ended last."""

    def __init__(self, longest: int = LONGEST, shortest: int = SHORTEST) -> None:
        self.longest, self.shortest = longest, shortest
        self.after: dict[tuple[int, ...], int] = {}  # n-gram → position of the token after it
        self.seen = 0  # positions whose n-grams are in `after`

    def lookup(self, tokens: Sequence[int], most: int) -> list[int]:
        """Find what `lookup` finds. tokens: those of the last call, and more."""
        sizes = range(self.shortest, self.longest + 1)
        for end in range(max(self.seen, 1), len(tokens)):  # n-grams that something follows
            for n in sizes:
                if n <= end:
                    self.after[tuple(tokens[end - n : end])] = end
        self.seen = max(self.seen, len(tokens))
        for n in reversed(sizes):
            if n < len(tokens) and (start := self.after.get(tuple(tokens[len(tokens) - n :]))) is not None:
                return list(tokens[start : start + most])
        return []


class PromptLookup:
    """A Proposer that looks in each text itself."""

    def __init__(self, longest: int = LONGEST, shortest: int = SHORTEST) -> None:
        self.sizes = longest, shortest
        self.indexes: dict[Hashable, NgramIndex] = {}

    def propose(self, texts: Sequence[Text], most: Sequence[int]) -> list[Draft]:
        """See Proposer."""
        found = []
        for text, n in zip(texts, most, strict=True):
            index = self.indexes.setdefault(text.key, NgramIndex(*self.sizes))
            found.append(Draft(index.lookup(text.tokens, n)))
        return found

    def forget(self, key: Hashable) -> None:
        """See Proposer."""
        self.indexes.pop(key, None)
