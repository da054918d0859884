"""Takes the least of the queue's valid places by a search, and returns as soon as there is none."""
while freed < n:
    self.queue = [p for p in self.queue if p[1] == p[2].ticket and not p[2].children and not self.locked(p[2])]
    if not self.queue:
        return freed
    place = min(self.queue, key=lambda p: p[:2])
    self.queue.remove(place)
    heapify(self.queue)
    self.policy.evicted(place[0])
    self.prune(place[2])
    freed += 1
