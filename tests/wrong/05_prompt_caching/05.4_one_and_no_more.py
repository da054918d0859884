"""Evicts one page however many are asked for."""
if freed < n and self.queue:
    score, ticket, node = heappop(self.queue)
    if ticket == node.ticket and not node.children and not self.locked(node):
        self.policy.evicted(score)
        self.prune(node)
        freed += 1
