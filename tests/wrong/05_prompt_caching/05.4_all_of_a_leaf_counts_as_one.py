"""Prunes the whole leaf and counts one page."""
while freed < n and self.queue:
    score, ticket, node = heappop(self.queue)
    if ticket == node.ticket and not node.children and not self.locked(node):
        self.policy.evicted(score)
        while node.ticket == ticket and node.pages:
            self.prune(node)
            ticket = node.ticket if node.pages else None
        freed += 1
