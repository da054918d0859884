"""The waiting queue: which request is admitted next.

    fcfs       first come, first served
    priority   the most urgent, among equals the first to come
    fair       the user served the fewest tokens: one user's thousand requests delay another's one by little
    cache      the longest cached prefix, before it is evicted

All but the first let later requests overtake earlier ones, so a stream of favoured requests could starve the others.
Therefore the request that waits longest may be overtaken `patience` times; then it is next, whatever the order says. A
request behind k others is admitted after at most (k + 1) · (patience + 1) admissions. A request that is next and does not
fit yet blocks those behind it, small ones too (head-of-line blocking, accepted here): otherwise small requests could
starve a large one. `peek` returns it again in the next step.

Fairness counted in tokens: Sheng et al., 2024, "Fairness in Serving Large Language Models", arXiv:2401.00588. Longest
cached prefix first: Zheng et al., 2024 (SGLang), arXiv:2312.07104.
"""

from collections import OrderedDict
from heapq import heapify, heappop, heappush
from itertools import islice

from minillm.cache.prefix_cache import PrefixCache
from minillm.scheduler.request import SequenceGroup

WINDOW = 64  # how many of the longest-waiting are looked up in the cache: a lookup costs a walk along the prompt
MAX_USERS = 10_000  # users whose served tokens are remembered


class Queue:
    """The waiting requests in order of arrival: first come, first served. Subclasses prefer others."""

    def __init__(self, patience: int = 0, cache: PrefixCache | None = None) -> None:
        self.patience, self.cache = patience, cache
        self.waiting: OrderedDict[int, SequenceGroup] = OrderedDict()  # by request id, in order of arrival
        self.passed = 0  # admissions since the oldest became the oldest

    def __len__(self) -> int:
        return len(self.waiting)

    def push(self, group: SequenceGroup) -> None:
        """Add a group that has arrived."""
        self.waiting[group.request.id] = group

    def peek(self) -> SequenceGroup | None:
        """Return the group to admit next, if it fits; it stays in the queue until `pop`."""
        if not self.waiting:
            return None
        return self.preferred() if self.passed < self.patience else self.oldest()

    def oldest(self) -> SequenceGroup:
        """Return the group that has waited longest."""
        return next(iter(self.waiting.values()))

    def preferred(self) -> SequenceGroup:
        """Return the group that the order favours. The queue is not empty."""
        return self.oldest()

    def pop(self, group: SequenceGroup) -> None:
        """Remove a group that was admitted; it has overtaken the oldest, unless it is the oldest."""
        self.passed += 1
        self.remove(group)

    def remove(self, group: SequenceGroup) -> None:
        """Remove a group that was admitted or cancelled."""
        if group is self.oldest():
            self.passed = 0
        del self.waiting[group.request.id]

    def charge(self, user: str, tokens: int) -> None:
        """Count tokens that a user was served. Only the fair order uses it."""


class PriorityQueue(Queue):
    """The smallest priority number first, among equals the first to come."""

    def __init__(self, patience: int = 0, cache: PrefixCache | None = None) -> None:
        super().__init__(patience, cache)
        self.heap: list[tuple[float, int, SequenceGroup]] = []  # priority, arrival; with entries of groups that have left
        self.arrivals = 0

    def push(self, group: SequenceGroup) -> None:
        super().push(group)
        self.arrivals += 1
        heappush(self.heap, (group.request.priority, self.arrivals, group))

    def is_waiting(self, group: SequenceGroup) -> bool:
        return self.waiting.get(group.request.id) is group

    def preferred(self) -> SequenceGroup:
        while not self.is_waiting(self.heap[0][2]):
            heappop(self.heap)
        return self.heap[0][2]

    def remove(self, group: SequenceGroup) -> None:
        super().remove(group)
        if len(self.heap) > 2 * len(self.waiting) + 64:  # mostly of groups that have left
            self.heap = [entry for entry in self.heap if self.is_waiting(entry[2])]
            heapify(self.heap)


class FairQueue(Queue):
    """The user who has been served the fewest tokens first, and of that user's requests the first to come.

    A prompt counts when it is admitted (less what is cached), an answer token when it is drawn; work repeated after a
    preemption does not count twice. Idle users do not save up credit: a user whose queue was empty begins at the level of
    the user chosen last, or at its own count where that is higher.
    """

    def __init__(self, patience: int = 0, cache: PrefixCache | None = None) -> None:
        super().__init__(patience, cache)
        self.served: OrderedDict[str, int] = OrderedDict()  # tokens by user; the user charged last at the end
        self.queues: dict[str, OrderedDict[int, SequenceGroup]] = {}  # a user's waiting groups by arrival; no queue is empty
        self.level = 0  # of the user chosen last

    def push(self, group: SequenceGroup) -> None:
        super().push(group)
        user = group.request.user
        if user not in self.queues:
            self.queues[user] = OrderedDict()
            self.served[user] = max(self.served.get(user, 0), self.level)
        self.queues[user][group.request.id] = group

    def preferred(self) -> SequenceGroup:
        """Return the first request of the user with the fewest tokens served; among equals, of the user whose queue began first.

        queues: user -> {id: group} in order of arrival, the users in the order in which their queues began; no queue is
        empty. served: user -> tokens, of all who wait. The least count becomes the new `level`, where newcomers begin.
        """
        # BEGIN SOLUTION ex=06.5
        user = min(self.queues, key=lambda user: self.served[user])
        self.level = self.served[user]
        return next(iter(self.queues[user].values()))
        # END SOLUTION

    def remove(self, group: SequenceGroup) -> None:
        super().remove(group)
        user = group.request.user
        del self.queues[user][group.request.id]
        if not self.queues[user]:
            del self.queues[user]

    def charge(self, user: str, tokens: int) -> None:
        self.served[user] = self.served.get(user, self.level) + tokens
        self.served.move_to_end(user)
        while len(self.served) > MAX_USERS and (longest_ago := next(iter(self.served))) not in self.queues:
            del self.served[longest_ago]


class CacheQueue(Queue):
    """The longest cached prefix first, among the WINDOW requests that wait longest; among equals the first to come."""

    def preferred(self) -> SequenceGroup:
        cache = self.cache
        if cache is None:
            return self.oldest()
        groups = islice(self.waiting.values(), WINDOW)
        return max(groups, key=lambda group: cache.cached_length(group.request.prompt, group.request.salt))


QUEUES = {"fcfs": Queue, "priority": PriorityQueue, "fair": FairQueue, "cache": CacheQueue}
