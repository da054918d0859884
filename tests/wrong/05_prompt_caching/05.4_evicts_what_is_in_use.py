"""Does not look whether the page is in use."""
while freed < n and self.queue:
    score, ticket, node = heappop(self.queue)
    if ticket == node.ticket and not node.children:
        self.policy.evicted(score)
        self.prune(node)
        freed += 1
