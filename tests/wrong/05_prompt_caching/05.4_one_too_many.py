"""Counts from one page too low."""
while freed <= n and self.queue:
    score, ticket, node = heappop(self.queue)
    if ticket == node.ticket and not node.children and not self.locked(node):
        self.policy.evicted(score)
        self.prune(node)
        freed += 1
