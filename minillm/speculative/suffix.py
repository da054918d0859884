"""Suffix decoding: drafts from all that was written so far, as long as the past is sure of itself.

Prompt lookup asks where the last tokens stood before, and copies what came then. Here every continuation is counted, over this
text and the answers before it, for contexts of up to DEPTH tokens. A draft follows the likeliest one, token by token; its chance
is the product of the shares on its way, and it ends where that falls below a threshold. So a loop is copied at length, a familiar
phrase for a few tokens, and what is new not at all.

    after "brown fox":  jumps 8 · runs 1 · . 1        →  jumps, 0.8   then after "fox jumps":  over 8   →  over, 0.8 · 0.9   …

Agents and rewriting repeat earlier answers; chat seldom does. Oliaro et al. 2024, arXiv:2411.04975 (SuffixDecoding). Where they
keep a suffix tree, here is a table of contexts, which is the same tree with its nodes named by their paths.
"""

from collections import Counter, OrderedDict
from collections.abc import Hashable, Sequence

from minillm.speculative.proposer import Draft, Text

DEPTH, LEAST = 8, 0.3  # tokens of the longest context; the chance at which a draft ends
REMEMBERED = 20_000  # tokens of earlier texts, the latest ones

Counts = dict[tuple[int, ...], Counter[int]]


class SuffixCounts:
    """For every context of 1 to `depth` tokens: how often each token followed it."""

    def __init__(self, depth: int = DEPTH) -> None:
        self.depth, self.counts = depth, Counts()

    def add(self, tokens: Sequence[int], start: int, times: int = 1) -> None:
        """Count the tokens from `start` on, each after what precedes it. times: -1 takes them back."""
        for i in range(max(start, 1), len(tokens)):
            for n in range(1, min(self.depth, i) + 1):
                context = tuple(tokens[i - n : i])
                followers = self.counts.setdefault(context, Counter())
                followers[tokens[i]] += times
                if followers[tokens[i]] <= 0:
                    del followers[tokens[i]]
                    if not followers:
                        del self.counts[context]

    def followers(self, tokens: Sequence[int]) -> tuple[int, Counter[int]]:  # tokens of the context, {token: times}
        """Count what followed the longest end of these tokens that was ever followed by anything."""
        for n in range(min(self.depth, len(tokens)), 0, -1):
            if found := self.counts.get(tuple(tokens[len(tokens) - n :])):
                return n, found
        return 0, Counter()


def likely_path(sources: Sequence[SuffixCounts], tokens: Sequence[int], most: int, least: float = LEAST) -> list[int]:
    """Follow the likeliest token of the source that knows the longest context, while the chance of it all is `least`.

    Of several that know as much the first counts. A chance is a share of what was seen, and of 1 / n sightings more that were
    something else: what followed a context of one token once is no certainty, what followed one of n = 8 nearly is.
    """
    window, chance, found = list(tokens[-max(source.depth for source in sources) :]), 1.0, list[int]()
    while len(found) < most:
        n, followers = max((source.followers(window) for source in sources), key=lambda known: known[0])
        if not n:
            break
        token, times = max(followers.items(), key=lambda item: (item[1], -item[0]))
        chance *= times / (followers.total() + 1 / n)
        if chance < least:
            break
        found.append(token)
        window = [*window[1:], token]
    return found


class SuffixDecoding:
    """A Proposer that looks in each text itself, then in what was written before it.

    Texts that ended are shared by all requests. That changes what is proposed, and so the time that an answer takes, not what it
    says: a server whose users must not notice each other's texts by time gives remembered=0.
    """

    def __init__(self, depth: int = DEPTH, least: float = LEAST, remembered: int = REMEMBERED) -> None:
        self.depth, self.least, self.remembered = depth, least, remembered
        self.own: dict[Hashable, tuple[SuffixCounts, list[int]]] = {}  # and the tokens that are counted
        self.past, self.ended = SuffixCounts(depth), OrderedDict[int, list[int]]()
        self.number = self.held = 0

    def propose(self, texts: Sequence[Text], most: Sequence[int]) -> list[Draft]:
        """See Proposer."""
        found = []
        for text, n in zip(texts, most, strict=True):
            counts, counted = self.own.setdefault(text.key, (SuffixCounts(self.depth), []))
            start = len(counted)
            counted += text.tokens[start:]
            counts.add(counted, start)
            found.append(Draft(likely_path((counts, self.past), counted, n, self.least)))
        return found

    def forget(self, key: Hashable) -> None:
        """Let a text that has ended serve those after it; forget the oldest of them beyond what is remembered."""
        if (text := self.own.pop(key, None)) is None or not self.remembered:
            return
        tokens = text[1][-self.remembered :]
        self.past.add(tokens, 0)
        self.ended[self.number] = tokens
        self.number, self.held = self.number + 1, self.held + len(tokens)
        while self.held > self.remembered:
            _, oldest = self.ended.popitem(last=False)
            self.past.add(oldest, 0, times=-1)
            self.held -= len(oldest)
