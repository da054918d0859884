"""Takes the highest score."""
while freed < n and self.queue:
    score, ticket, node = self.queue.pop(self.queue.index(max(self.queue)))
    if ticket == node.ticket and not node.children and not self.locked(node):
        self.policy.evicted(score)
        self.prune(node)
        freed += 1
