"""How far to draft: as long as one more draft brings more tokens than it costs time. Measured, not assumed.

    tokens a second of a step  =  Σ E(α_i, γ_i) / (T(n) + c Σ γ_i)         n = Σ (1 + γ_i) tokens, over the texts i of the batch

    α_i    share of a text's drafts that were kept, of the last few looked at; that of all texts, while it is new
    T(n)   seconds of a step that computes n tokens: the median of those measured
    c      seconds to propose a token

The k-th draft of a text is kept with chance α^k. So drafts are taken in the order of their chances, over all texts, up to where
the rate is highest: many for a text that copies, none for one that is new, and none for all where a step is full of requests
already, since then T grows with n. A text without drafts is probed now and then. Liu et al. 2024, arXiv:2406.14066 (SmartSpec).
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Protocol

MOST = 8  # drafts of a text
MEMORY = 0.97  # of an acceptance rate: what each new look leaves of those before
PROBE = 32  # steps without drafts, after which a text gets one
SEEN, STALE = 9, 256  # steps of a size, of which the median counts; steps after which it is forgotten


class Lookahead(Protocol):
    """Says how many drafts each text gets."""

    def most(self, keys: Sequence[Hashable]) -> list[int]:
        """Choose for the texts of a step."""

    def verified(self, key: Hashable, looked_at: int, kept: int) -> None:
        """Learn what became of a text's drafts. looked_at: those that were kept, and the one that was not."""

    def stepped(self, tokens: int, seconds: float) -> None:
        """Learn what a step of decodes took, with so many tokens in all."""

    def drafted(self, tokens: int, seconds: float) -> None:
        """Learn what it took to propose so many tokens."""

    def forget(self, key: Hashable) -> None:
        """Drop a text that has ended."""


@dataclass(slots=True)
class Fixed:
    """Always γ drafts."""

    gamma: int

    def most(self, keys: Sequence[Hashable]) -> list[int]:
        """See Lookahead."""
        return [self.gamma] * len(keys)

    def verified(self, key: Hashable, looked_at: int, kept: int) -> None:
        """See Lookahead."""

    def stepped(self, tokens: int, seconds: float) -> None:
        """See Lookahead."""

    def drafted(self, tokens: int, seconds: float) -> None:
        """See Lookahead."""

    def forget(self, key: Hashable) -> None:
        """See Lookahead."""


class StepTimes:
    """T(n): medians of what was measured, with straight lines in between.

    A size that was not seen for STALE steps is forgotten, and so tried again: the one time it was measured, a kernel may have
    been compiled in it, or the machine may have been busy.
    """

    def __init__(self) -> None:
        self.seen: dict[int, deque[float]] = {}
        self.last: dict[int, int] = {}  # step in which it was seen last
        self.steps = 0

    def add(self, tokens: int, seconds: float) -> None:
        """Take in a step."""
        self.steps += 1
        self.seen.setdefault(tokens, deque(maxlen=SEEN)).append(seconds)
        self.last[tokens] = self.steps
        for size in [size for size, step in self.last.items() if step < self.steps - STALE]:
            del self.seen[size], self.last[size]

    def __call__(self, tokens: int) -> float:
        """Estimate a step. What was not seen is hoped to be cheap: more tokens cost no more, fewer cost in proportion less.

        So what might pay is tried, and is known then.
        """
        sizes = sorted(self.seen)
        if not sizes:
            return 1.0
        right = bisect_left(sizes, tokens)
        if right == len(sizes) or sizes[right] == tokens:
            return median(self.seen[sizes[min(right, len(sizes) - 1)]])
        if right == 0:
            return median(self.seen[sizes[0]]) * tokens / sizes[0]
        a, b = sizes[right - 1], sizes[right]
        low, high = median(self.seen[a]), median(self.seen[b])
        return low + (high - low) * (tokens - a) / (b - a)


@dataclass(slots=True)
class Rate:
    """A share of drafts kept, of the last few looked at."""

    kept: float = 0.0
    looked_at: float = 0.0
    idle: int = 0  # steps since it last had drafts

    def add(self, looked_at: int, kept: int) -> None:
        """Take in a look."""
        fade = MEMORY**looked_at
        self.kept, self.looked_at = fade * self.kept + kept, fade * self.looked_at + looked_at


class Adaptive:
    """A Lookahead that follows acceptance and load. most: drafts of a text."""

    def __init__(self, most: int = MOST) -> None:
        self.longest, self.times = most, StepTimes()
        self.rates, self.all = dict[Hashable, Rate](), Rate(kept=1, looked_at=2)
        self.cost = 0.0  # seconds of a proposed token

    def most(self, keys: Sequence[Hashable]) -> list[int]:
        """See Lookahead."""
        rates = [self.rates.setdefault(key, Rate()) for key in keys]
        gammas = best_drafts([self.alpha(rate) for rate in rates], self.longest, self.times, self.cost)
        for i, rate in enumerate(rates):
            rate.idle = 0 if gammas[i] else rate.idle + 1
            if rate.idle >= PROBE:
                gammas[i], rate.idle = 1, 0
        return gammas

    def alpha(self, rate: Rate) -> float:
        """Estimate a text's acceptance: its own looks, and two of all texts'."""
        common = self.all.kept / self.all.looked_at
        return (rate.kept + 2 * common) / (rate.looked_at + 2)

    def verified(self, key: Hashable, looked_at: int, kept: int) -> None:
        """See Lookahead."""
        self.rates.setdefault(key, Rate()).add(looked_at, kept)
        self.all.add(looked_at, kept)

    def stepped(self, tokens: int, seconds: float) -> None:
        """See Lookahead."""
        self.times.add(tokens, seconds)

    def drafted(self, tokens: int, seconds: float) -> None:
        """See Lookahead."""
        if tokens:
            self.cost = seconds / tokens if not self.cost else MEMORY * self.cost + (1 - MEMORY) * seconds / tokens

    def forget(self, key: Hashable) -> None:
        """See Lookahead."""
        self.rates.pop(key, None)


def best_drafts(alphas: Sequence[float], longest: int, seconds: StepTimes, cost: float) -> list[int]:
    """Choose γ for each text: the number of drafts, taken by their chances, at which tokens a second are most.

    alphas: acceptance rate of each text. seconds: of a step, by its tokens. cost: seconds to propose a token.
    """
    batch = len(alphas)
    chances = sorted(((alpha**k, i) for i, alpha in enumerate(alphas) for k in range(1, longest + 1)), key=lambda c: -c[0])
    tokens, best, count = float(batch), batch / seconds(batch), 0
    for n, (chance, _) in enumerate(chances, 1):
        tokens += chance
        if (rate := tokens / (seconds(batch + n) + n * cost)) > best:
            best, count = rate, n
    gammas = [0] * batch
    for _, i in chances[:count]:
        gammas[i] += 1
    return gammas
