"""Who enters next: the order of the waiting.

    fcfs       who came first
    priority   who is most urgent, among those who came first
    fair       whose user has been served the fewest tokens: one user's thousand requests delay another's one by little
    cache      who finds most of its prompt cached, before that is evicted

All but the first let later requests pass earlier ones, and a stream of the favoured would let the others wait for ever.
So the one who waits longest may be passed `patience` times, and then is next whatever the order says. A request behind
k others therefore enters after at most (k + 1) · (patience + 1) entries. Whoever is next and does not fit yet is waited
for: nobody slips past (`head` is asked again in the next step, and passing counts).

Fairness counted in tokens: Sheng et al., 2024, "Fairness in Serving Large Language Models", arXiv:2401.00588. Longest
cached prefix first: Zheng et al., 2024 (SGLang), arXiv:2312.07104.
"""

from collections import OrderedDict
from heapq import heapify, heappop, heappush
from itertools import islice

WINDOW = 64  # how many of the longest-waiting are looked up in the cache: a look costs a walk along the prompt
DEBTS = 10_000  # users whose served tokens are remembered


class Queue:
    """The waiting, in order of arrival: first come, first served. Subclasses prefer others."""

    def __init__(self, patience=0, cache=None):
        self.patience, self.cache = patience, cache
        self.line = OrderedDict()  # request id -> group, in order of arrival
        self.passed = 0  # entries since the first in line became the first

    def __len__(self):
        return len(self.line)

    def push(self, group):
        """It arrives."""
        self.line[group.request.id] = group

    def head(self):  # -> group or None
        """Who enters next, if it fits; it stays in line until `enter`."""
        if not self.line:
            return None
        return self.preferred() if self.passed < self.patience else self.oldest()

    def oldest(self):
        """Who waits longest."""
        return next(iter(self.line.values()))

    def preferred(self):
        """Who the order favours; there is somebody waiting."""
        return self.oldest()

    def enter(self, group):
        """It enters: one more has passed the first in line, unless it is the first."""
        self.passed += 1
        self.remove(group)

    def remove(self, group):
        """It waits no longer: entered, or cancelled."""
        if group is self.oldest():
            self.passed = 0
        del self.line[group.request.id]

    def charge(self, user, tokens):
        """A user was served so many tokens. Matters to fairness alone."""


class PriorityQueue(Queue):
    """The smallest priority number first, among equals the first to come."""

    def __init__(self, patience=0, cache=None):
        super().__init__(patience, cache)
        self.heap, self.arrivals = [], 0  # (priority, arrival, group), with places of those who have left

    def push(self, group):
        super().push(group)
        self.arrivals += 1
        heappush(self.heap, (group.request.priority, self.arrivals, group))

    def waits(self, group):
        return self.line.get(group.request.id) is group

    def preferred(self):
        while not self.waits(self.heap[0][2]):
            heappop(self.heap)
        return self.heap[0][2]

    def remove(self, group):
        super().remove(group)
        if len(self.heap) > 2 * len(self.line) + 64:  # mostly of those who have left
            self.heap = [place for place in self.heap if self.waits(place[2])]
            heapify(self.heap)


class FairQueue(Queue):
    """The user who has been served the fewest tokens first, and of that user's requests the first to come.

    A prompt counts when it enters (less what is cached), an answer token when it is drawn; work done twice after a
    preemption is not the user's doing and does not count twice. Who was away does not save up: a user whose line was
    empty begins at the level of the user chosen last, or higher if that is where its own count stands.
    """

    def __init__(self, patience=0, cache=None):
        super().__init__(patience, cache)
        self.served = OrderedDict()  # user -> tokens; who was charged last at the end
        self.lines = {}  # user -> the waiting of that user, in order of arrival; no empty lines
        self.level = 0  # of the user chosen last

    def push(self, group):
        super().push(group)
        user = group.request.user
        if user not in self.lines:
            self.lines[user] = OrderedDict()
            self.served[user] = max(self.served.get(user, 0), self.level)
        self.lines[user][group.request.id] = group

    def preferred(self):
        """The first in line of the user with the fewest tokens served; among equals, of the user whose line began first.

        lines: user -> {id: group} in order of arrival, the users in the order in which their lines began; no line is
        empty. served: user -> tokens, of all in line. The least count becomes the new `level`, where newcomers begin.
        """
        # BEGIN SOLUTION ex=06.5
        user = min(self.lines, key=lambda user: self.served[user])
        self.level = self.served[user]
        return next(iter(self.lines[user].values()))
        # END SOLUTION

    def remove(self, group):
        super().remove(group)
        user = group.request.user
        del self.lines[user][group.request.id]
        if not self.lines[user]:
            del self.lines[user]

    def charge(self, user, tokens):
        self.served[user] = self.served.get(user, self.level) + tokens
        self.served.move_to_end(user)
        while len(self.served) > DEBTS and (longest_ago := next(iter(self.served))) not in self.lines:
            del self.served[longest_ago]


class CacheQueue(Queue):
    """The longest cached prefix first, of the WINDOW who wait longest; among equals the first to come."""

    def preferred(self):
        if self.cache is None:
            return self.oldest()
        return max(
            islice(self.line.values(), WINDOW),
            key=lambda group: self.cache.cached_length(group.request.prompt, group.request.salt),
        )


QUEUES = {"fcfs": Queue, "priority": PriorityQueue, "fair": FairQueue, "cache": CacheQueue}
