"""Does not tell the policy."""
while freed < n and self.queue:
    score, ticket, node = heappop(self.queue)
    if ticket == node.ticket and not node.children and not self.locked(node):
        self.prune(node)
        freed += 1
